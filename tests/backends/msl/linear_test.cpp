// The linear op on every executor: every format,
// ragged shapes, every kernel, against the product in double of the decoded weights.
#include "backends/msl/linear.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <thread>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "backends/msl/matrix_unit.h"
#include "base/thread_pool.h"
#include "formats/group_scale.h"
#include "formats/small_floats.h"
#include "test_data.h"

namespace metal_marlin::msl {
namespace {

struct Shape {
  std::int64_t rows;
  std::int64_t cols;
  std::int64_t tokens;
};

struct Result {
  std::vector<float> y;
  std::string kernel;
};

Result run_linear(Device& device, const Weight& weight, const Shape& s, const std::vector<float>& x,
                  const std::vector<float>& bias, Activations mode, Activation activation = Activation::kNone,
                  const std::vector<float>* before = nullptr) {
  const Linear linear(device, "w", weight, s.rows, s.cols, test_pool());
  const LinearWorkspace workspace(device, s.tokens, s.cols, s.rows);
  const auto x_buffer = device.allocate_with(x);
  std::vector<float> y(static_cast<std::size_t>(s.tokens * s.rows), std::nanf(""));
  if (before != nullptr) y = *before;
  const auto y_buffer = device.allocate_with(y);
  const auto bias_buffer = device.allocate_with(bias.empty() ? std::vector<float>(1) : bias);
  const auto commands = device.commands();
  Linear::Call call;
  call.x = x_buffer.get();
  call.y = y_buffer.get();
  call.tokens = s.tokens;
  call.bias = bias.empty() ? nullptr : bias_buffer.get();
  call.accumulate = before != nullptr;
  call.activation = activation;
  call.mode = mode;
  linear.encode(*commands, call, workspace);
  commands->commit();
  commands->wait();
  y_buffer->download(std::as_writable_bytes(std::span(y)));
  return {y, linear.kernel_for(s.tokens, mode)};
}

// |error| <= sum |w x| (2 u + K 2^-23) and a rounding: u is the unit roundoff of
// the matrix unit's input type, 0 where products are made in f32.
void expect_close(const Result& run, const std::vector<float>& w, const std::vector<float>& x, const Shape& s,
                  const std::vector<float>& bias, double u, const std::string& what,
                  const std::vector<float>* before = nullptr) {
  for (std::int64_t t = 0; t < s.tokens; ++t) {
    for (std::int64_t r = 0; r < s.rows; ++r) {
      double sum = bias.empty() ? 0 : bias[static_cast<std::size_t>(r)];
      double size = std::fabs(sum);
      for (std::int64_t k = 0; k < s.cols; ++k) {
        const double term = static_cast<double>(w[static_cast<std::size_t>(r * s.cols + k)]) *
                            x[static_cast<std::size_t>(t * s.cols + k)];
        sum += term;
        size += std::fabs(term);
      }
      const auto at = static_cast<std::size_t>(t * s.rows + r);
      if (before != nullptr) sum += (*before)[at];
      const double tolerance =
          size * (2 * u + static_cast<double>(s.cols + 8) * 0x1p-23) + std::fabs(sum) * 0x1p-23 + 1e-30;
      ASSERT_NEAR(run.y[at], sum, tolerance) << what << " " << run.kernel << " token " << t << " row " << r;
    }
  }
}

// Offsets and minima make terms larger than the weight: their sizes count too.
double spread_of(const FormatSpec& spec) {
  return spec.zero == ZeroKind::kNone ? 1 : 16;
}

double unit_of(const Weight& weight, Activations mode) {
  if (mode == Activations::kF32) return 0;
  if (weight.packed()) return 0x1p-11;
  switch (std::get<DenseView>(weight.view).dtype) {
    case DType::kF16: return 0x1p-11;
    case DType::kBf16: return 0x1p-8;
    default: return 0;
  }
}

class LinearOp : public OnExecutor {};
INSTANTIATE_TEST_SUITE_P(Executor, LinearOp, testing::ValuesIn(executors()), executor_name);

TEST_P(LinearOp, EveryFormatAndGroup) {
  unsigned seed = 1;
  const std::vector<Shape> shapes = few_shapes()
                                        ? std::vector<Shape>{{19, 75, 3}, {48, 100, 18}}
                                        : std::vector<Shape>{{16, 64, 1}, {35, 100, 9}, {7, 144, 17}, {130, 70, 33}};
  for (const FormatSpec& spec : kernel_specs()) {
    const Shape& s = shapes[seed++ % shapes.size()];
    const TestMatrix matrix = packed_matrix(spec, s.rows, s.cols, ++seed);
    const auto x = normal_data(static_cast<std::size_t>(s.tokens * s.cols), ++seed);
    const auto bias = normal_data(static_cast<std::size_t>(s.rows), ++seed);
    for (const Activations mode : {Activations::kInt8, Activations::kF32}) {
      if (few_shapes() && mode == Activations::kF32 && seed % 3 != 0) continue;
      const Result run = run_linear(*device, matrix.weight, s, x, bias, mode);
      expect_close(run, matrix.decoded(), x, s, bias, spread_of(spec) * (unit_of(matrix.weight, mode) + 0x1p-22),
                   text(spec));
    }
  }
}

TEST_P(LinearOp, DenseWeights) {
  unsigned seed = 100;
  for (const DType type : {DType::kF32, DType::kF16, DType::kBf16}) {
    for (const Shape& s : {Shape{35, 101, 5}, Shape{70, 64, 11}, Shape{1, 1, 1}}) {
      const TestMatrix matrix = dense_matrix(type, s.rows, s.cols, ++seed);
      const auto x = normal_data(static_cast<std::size_t>(s.tokens * s.cols), ++seed);
      const auto before = normal_data(static_cast<std::size_t>(s.tokens * s.rows), ++seed);
      for (const Activations mode : {Activations::kInt8, Activations::kF32}) {
        const Result run = run_linear(*device, matrix.weight, s, x, {}, mode, Activation::kNone, &before);
        expect_close(run, matrix.decoded(), x, s, {}, unit_of(matrix.weight, mode), std::string(dtype_name(type)),
                     &before);
      }
    }
  }
}

TEST_P(LinearOp, ManyTokensAndSplitInputs) {
  for (const Format format : {Format::kFp4, Format::kS4, Format::kNvfp4}) {
    for (const Shape& s : {Shape{40, 700, 40}, Shape{24, 128, 130}}) {
      const TestMatrix matrix = packed_matrix(default_spec(format), s.rows, s.cols, 7);
      const auto x = normal_data(static_cast<std::size_t>(s.tokens * s.cols), 8);
      const Result run = run_linear(*device, matrix.weight, s, x, {}, Activations::kInt8);
      EXPECT_EQ(run.kernel.starts_with("gemm_fp4"), s.tokens >= 128 && format != Format::kU4) << run.kernel;
      expect_close(run, matrix.decoded(), x, s, {}, 0x1p-11, std::string(format_info(format).name));
    }
  }
}

// More bands of rows than a device has cores, and few inputs.
TEST_P(LinearOp, ManyRowsForFewTokens) {
  for (const std::int64_t tokens : {1, 3, 16}) {
    const Shape s{few_shapes() ? 600 : 8600, 200, tokens};
    const TestMatrix matrix = packed_matrix(default_spec(Format::kFp4), s.rows, s.cols, 21);
    const auto x = normal_data(static_cast<std::size_t>(s.tokens * s.cols), 22);
    const Result run = run_linear(*device, matrix.weight, s, x, {}, Activations::kInt8);
    expect_close(run, matrix.decoded(), x, s, {}, 0x1p-11, "many rows");
  }
}

// Bands of rows that end within one, in the first block of one and in the second.
TEST_P(LinearOp, BandsOfRows) {
  for (const std::int64_t tokens : {2, 8, 13, 20, 32}) {
    for (const Format format : {Format::kFp4, Format::kS4, Format::kFp8E4M3}) {
      for (const std::int64_t rows : {32, 40, 57}) {
        const Shape s{rows, 200, tokens};
        const TestMatrix matrix = packed_matrix(default_spec(format), s.rows, s.cols, 41);
        const auto x = normal_data(static_cast<std::size_t>(s.tokens * s.cols), 42);
        const Result run = run_linear(*device, matrix.weight, s, x, {}, Activations::kInt8);
        EXPECT_TRUE(run.kernel.starts_with("decode_gemv")) << run.kernel;
        expect_close(run, matrix.decoded(), x, s, {}, 0x1p-11, std::string(format_info(format).name));
      }
    }
  }
}

// Sizes about those of tiles, units and blocks, drawn at random, of every kind of matrix.
TEST_P(LinearOp, RandomShapes) {
  std::mt19937 generator(61);
  const auto random = [&] { return static_cast<unsigned>(generator()); };
  const auto one_of = [&](const std::vector<std::int64_t>& sizes) { return sizes[random() % sizes.size()]; };
  const std::vector<FormatSpec> specs = kernel_specs();
  const std::vector<DType> types = {DType::kF32, DType::kF16, DType::kBf16};
  const int count = few_shapes() ? 12 : 40;
  for (int i = 0; i < count; ++i) {
    const Shape s{one_of({1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129}),
                  one_of({1, 2, 3, 15, 16, 17, 32, 63, 64, 65, 127, 128, 129, 193}),
                  one_of({1, 2, 4, 5, 7, 8, 9, 16, 17, 31, 32, 33, 65, 127, 128, 129})};
    const TestMatrix matrix = i % 5 == 0 ? dense_matrix(types[random() % 3], s.rows, s.cols, random())
                                         : packed_matrix(specs[random() % specs.size()], s.rows, s.cols, random());
    const auto x = normal_data(static_cast<std::size_t>(s.tokens * s.cols), random());
    const auto mode = random() % 3 == 0 ? Activations::kF32 : Activations::kInt8;
    const double spread = matrix.weight.packed() ? spread_of(std::get<PackedView>(matrix.weight.view).spec) : 1;
    expect_close(run_linear(*device, matrix.weight, s, x, {}, mode), matrix.decoded(), x, s, {},
                 spread * (unit_of(matrix.weight, mode) + 0x1p-22), fmt::format("{} by {}", s.rows, s.cols));
  }
}

// A token's numbers are its own: what is not finite stays in its results, zeros give zeros, and numbers
// far from one, which half precision does not hold, count as any others.
TEST_P(LinearOp, ActivationsAtTheEdges) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const std::int64_t tokens : {9, 40}) {
    const Shape s{35, 100, tokens};
    for (const Activations mode : {Activations::kInt8, Activations::kF32}) {
      std::vector<TestMatrix> matrices;
      for (const DType type : {DType::kF32, DType::kF16, DType::kBf16})
        matrices.push_back(dense_matrix(type, s.rows, s.cols, 71));
      for (const Format format : {Format::kFp4, Format::kU4, Format::kInt8, Format::kFp8E4M3, Format::kNf3})
        matrices.push_back(packed_matrix(default_spec(format), s.rows, s.cols, 72));
      for (const TestMatrix& matrix : matrices) {
        auto x = normal_data(static_cast<std::size_t>(s.tokens * s.cols), 73);
        const auto token = [&](std::size_t t) { return std::span(x).subspan(t * 100, 100); };
        token(0)[50] = std::nanf("");
        token(2)[99] = kInf;
        std::ranges::fill(token(3), 0.0F);
        for (float& v : token(4)) v *= 1e25F;
        for (float& v : token(5)) v *= 1e-25F;
        token(6)[0] = 3e4F;  // beside which the rest is small
        for (float& v : token(7)) v *= 1e6F;
        for (float& v : token(8)) v *= 1e-7F;
        const Result run = run_linear(*device, matrix.weight, s, x, {}, mode);
        for (std::int64_t r = 0; r < s.rows; ++r) {
          EXPECT_TRUE(std::isnan(run.y[static_cast<std::size_t>(r)])) << run.kernel << " row " << r;
          EXPECT_FALSE(std::isfinite(run.y[static_cast<std::size_t>(2 * s.rows + r)])) << run.kernel << " row " << r;
          EXPECT_EQ(run.y[static_cast<std::size_t>(3 * s.rows + r)], 0) << run.kernel << " row " << r;
        }
        const std::vector<float> w = matrix.decoded();
        const double spread = matrix.weight.packed() ? spread_of(std::get<PackedView>(matrix.weight.view).spec) : 1;
        for (const std::int64_t t : {1, 4, 5, 6, 7, 8}) {
          const auto row = token(static_cast<std::size_t>(t));
          const auto y = run.y.begin() + t * s.rows;
          expect_close({{y, y + s.rows}, run.kernel}, w, {row.begin(), row.end()}, {s.rows, s.cols, 1}, {},
                       spread * (unit_of(matrix.weight, mode) + 0x1p-22), fmt::format("token {} of", t));
        }
      }
    }
  }
}

// Few rows, many inputs: each simdgroup's ring goes round.
TEST_P(LinearOp, ManyInputsForFewTokens) {
  for (const std::int64_t tokens : {1, 7, 12}) {
    for (const Format format : {Format::kFp4, Format::kU4, Format::kInt8}) {
      const Shape s{33, few_shapes() ? 1500 : 20000, tokens};
      const TestMatrix matrix = packed_matrix(default_spec(format), s.rows, s.cols, 31);
      const auto x = normal_data(static_cast<std::size_t>(s.tokens * s.cols), 32);
      const Result run = run_linear(*device, matrix.weight, s, x, {}, Activations::kInt8);
      expect_close(run, matrix.decoded(), x, s, {}, spread_of(default_spec(format)) * 0x1p-11, "many inputs");
    }
  }
}

// Matrices in lanes that tile_row and tile_column do not name are staged, without races.
TEST(MatrixUnit, StagesWhereLanesDiffer) {
  EXPECT_FALSE(make_host_device({1, false, LaneOrder::kForward, 0, 0})->matrix_unit().staged);
  for (const std::uint32_t mask : {1U, 8U, 31U}) {
    const auto device = make_host_device({1, has_detectors(), LaneOrder::kRandom, 5, mask});
    EXPECT_TRUE(device->matrix_unit().staged);
    for (const std::int64_t tokens : {3, 40}) {
      const Shape s{40, 100, tokens};
      const TestMatrix matrix = packed_matrix(default_spec(Format::kU4), s.rows, s.cols, 51);
      const auto x = normal_data(static_cast<std::size_t>(s.tokens * s.cols), 52);
      const Result run = run_linear(*device, matrix.weight, s, x, {}, Activations::kInt8);
      expect_close(run, matrix.decoded(), x, s, {}, spread_of(default_spec(Format::kU4)) * 0x1p-11, "staged");
    }
  }
}

// What a codec hands to the matrix unit is normal where subnormal halves are flushed: not a bit of the result
// differs. But for E5M2, which has all exponents of half: its subnormals are multiplied apart.
TEST(MatrixUnit, ResultsAreTheSameWhereSubnormalsAreFlushed) {
  const auto plain = make_host_device({2});
  const auto flushing = make_host_device({2, false, LaneOrder::kForward, 0, 0, true});
  EXPECT_FALSE(plain->matrix_unit().flushes);
  EXPECT_TRUE(flushing->matrix_unit().flushes);
  EXPECT_FALSE(flushing->matrix_unit().staged);
  unsigned seed = 80;
  for (const Format format : {Format::kFp4, Format::kMxfp4, Format::kNvfp4, Format::kFp8E4M3, Format::kFp8E5M2,
                              Format::kU4, Format::kIq4Nl, Format::kNf4, Format::kNf2}) {
    for (const std::int64_t tokens : {3, 40, 130}) {
      const Shape s{35, 200, tokens};
      const TestMatrix matrix = packed_matrix(default_spec(format), s.rows, s.cols, ++seed);
      // Of 8 bits every third code: all magnitudes, many of them below the least normal half.
      if (format_info(format).bits == 8)
        for (std::size_t i = 0; i < matrix.packed->codes.size(); i += 3)
          matrix.packed->codes[i] = std::byte{static_cast<std::uint8_t>(i / 3 % 8 | (i % 2) << 7)};
      const auto x = normal_data(static_cast<std::size_t>(s.tokens * s.cols), ++seed);
      const Result a = run_linear(*plain, matrix.weight, s, x, {}, Activations::kInt8);
      const Result b = run_linear(*flushing, matrix.weight, s, x, {}, Activations::kInt8);
      if (format == Format::kFp8E5M2) {
        expect_close(b, matrix.decoded(), x, s, {}, 0x1p-11, "E5M2");
      } else {
        EXPECT_EQ(0, std::memcmp(a.y.data(), b.y.data(), a.y.size() * sizeof(float))) << b.kernel;
      }
    }
  }
}

// Of subnormal codes alone, which nothing larger hides.
TEST(MatrixUnit, E5m2sSubnormalsCount) {
  const auto flushing = make_host_device({2, false, LaneOrder::kForward, 0, 0, true});
  for (const std::int64_t tokens : {3, 40}) {
    const Shape s{35, 200, tokens};
    const TestMatrix matrix = packed_matrix(default_spec(Format::kFp8E5M2), s.rows, s.cols, 91);
    for (std::size_t i = 0; i < matrix.packed->codes.size(); ++i)
      matrix.packed->codes[i] = std::byte{static_cast<std::uint8_t>(i % 4 | (i / 4 % 2) << 7)};
    const auto x = normal_data(static_cast<std::size_t>(s.tokens * s.cols), 92);
    const Result run = run_linear(*flushing, matrix.weight, s, x, {}, Activations::kInt8);
    expect_close(run, matrix.decoded(), x, s, {}, 0x1p-11, "subnormal E5M2");
  }
}

TEST(MatrixUnit, IsAskedOnceWhoeverComesFirst) {
  const auto device = make_host_device({1});
  std::array<const MatrixUnit*, 4> found{};
  std::vector<std::thread> threads;
  for (const MatrixUnit*& unit : found) threads.emplace_back([&] { unit = &device->matrix_unit(); });
  for (std::thread& thread : threads) thread.join();
  for (const MatrixUnit* const unit : found) EXPECT_EQ(unit, found[0]);
}

TEST(MatrixUnit, KernelsAreNotMadeWithoutTheirConstants) {
  const auto device = make_host_device({1});
  expect_error(ErrorCode::kInvalidArgument,
               "shader marlin_gemm: kernel marlin_gemm_e2m1 uses function constant 1 (bool flush_subnormals), which "
               "has no value",
               [&] { static_cast<void>(device->pipeline("marlin_gemm", "marlin_gemm_e2m1")); });
  expect_error(ErrorCode::kInvalidArgument, "function constant 0 (bool stage_tiles), which has no value", [&] {
    static_cast<void>(device->pipeline("marlin_gemm", "marlin_gemm_e2m1", {{1, BytesArgument(1)}}));
  });
  static_cast<void>(device->pipeline("marlin_gemm", "marlin_reduce"));  // uses none
}

TEST_P(LinearOp, Activation) {
  const Shape s{20, 96, 3};
  const TestMatrix matrix = packed_matrix(default_spec(Format::kFp4), s.rows, s.cols, 13);
  const auto x = normal_data(static_cast<std::size_t>(s.tokens * s.cols), 14);
  const Result plain = run_linear(*device, matrix.weight, s, x, {}, Activations::kF32);
  const Result silu = run_linear(*device, matrix.weight, s, x, {}, Activations::kF32, Activation::kSilu);
  const Result tanh_gelu = run_linear(*device, matrix.weight, s, x, {}, Activations::kF32, Activation::kGeluTanh);
  const Result gelu = run_linear(*device, matrix.weight, s, x, {}, Activations::kF32, Activation::kGelu);
  const Result relu = run_linear(*device, matrix.weight, s, x, {}, Activations::kF32, Activation::kRelu);
  for (std::size_t i = 0; i < plain.y.size(); ++i) {
    const double v = plain.y[i];
    EXPECT_NEAR(silu.y[i], v / (1 + std::exp(-v)), 1e-6 * (1 + std::fabs(v)));
    const double inner = std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v);
    EXPECT_NEAR(tanh_gelu.y[i], 0.5 * v * (1 + std::tanh(inner)), 1e-6 * (1 + std::fabs(v)));
    EXPECT_NEAR(gelu.y[i], 0.5 * v * (1 + std::erf(v / std::sqrt(2.0))), 1e-6 * (1 + std::fabs(v)));
    EXPECT_EQ(relu.y[i], std::max(plain.y[i], 0.0F));
  }
}

}  // namespace
}  // namespace metal_marlin::msl
