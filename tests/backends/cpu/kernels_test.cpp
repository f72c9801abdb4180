// Every instruction set's kernels against plain double-precision C++.
#include "backends/cpu/kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "backends/cpu/cache_rows.h"
#include "backends/cpu/panel_matrix.h"
#include "backends/linear_cases.h"
#include "base/thread_pool.h"
#include "formats/codec.h"
#include "formats/group_scale.h"
#include "formats/small_floats.h"
#include "test_data.h"

namespace metal_marlin::cpu {
namespace {

constexpr double kUnit = 0x1p-24;  // half a unit in the last place of f32

class EveryKernelSet : public testing::TestWithParam<const Kernels*> {
 protected:
  const Kernels& k = *GetParam();
};
INSTANTIATE_TEST_SUITE_P(Sets, EveryKernelSet,
                         testing::ValuesIn(available_kernels().begin(), available_kernels().end()),
                         [](const auto& test) { return std::string(test.param->name); });

std::vector<float> run_linear(const Kernels& k, const PanelMatrix& matrix, const PanelMatrix* gate, LinearInput input,
                              std::int64_t tokens, const std::vector<float>& x, const std::vector<float>& bias,
                              const std::vector<float>* accumulate) {
  const PanelView& view = matrix.view();
  const std::int64_t padded = view.blocks * kBlock;
  std::vector<float> padded_x(static_cast<std::size_t>(tokens * padded));
  std::vector<Q8Block> blocks(static_cast<std::size_t>(tokens * view.blocks));
  std::vector<std::uint16_t> bf16(padded_x.size());
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::copy_n(x.begin() + t * view.cols, view.cols, padded_x.begin() + t * padded);
    k.quantize_q8(x.data() + t * view.cols, view.cols, blocks.data() + t * view.blocks);
    if (input == LinearInput::kBf16) k.round_bf16(padded_x.data() + t * padded, padded, bf16.data() + t * padded);
  }
  std::vector<float> out(static_cast<std::size_t>(tokens * view.rows));
  if (accumulate != nullptr) out = *accumulate;
  std::vector<float> scratch(static_cast<std::size_t>(2 * scratch_floats(view) + 64));
  for (std::int64_t panel = 0; panel < matrix.panels(); ++panel) {
    const LinearTile tile{&view,
                          gate == nullptr ? nullptr : &gate->view(),
                          panel,
                          tokens,
                          blocks.data(),
                          padded_x.data(),
                          bf16.data(),
                          input == LinearInput::kQ8 ? view.blocks : padded,
                          out.data(),
                          view.rows,
                          bias.empty() ? nullptr : bias.data(),
                          nullptr,
                          accumulate != nullptr,
                          scratch.data()};
    (input == LinearInput::kQ8 ? k.linear_q8 : input == LinearInput::kBf16 ? k.linear_bf16 : k.linear_f32)(tile);
  }
  return out;
}

// The 8-bit activations that a kernel saw, as numbers.
std::vector<double> dequantized(const Kernels& k, const std::vector<float>& x, std::int64_t tokens, std::int64_t cols) {
  std::vector<double> out;
  std::vector<Q8Block> blocks(static_cast<std::size_t>((cols + kBlock - 1) / kBlock));
  for (std::int64_t t = 0; t < tokens; ++t) {
    k.quantize_q8(x.data() + t * cols, cols, blocks.data());
    for (std::int64_t i = 0; i < cols; ++i) {
      const Q8Block& block = blocks[static_cast<std::size_t>(i / kBlock)];
      out.push_back(static_cast<double>(block.scale) * block.q[i % kBlock]);
    }
  }
  return out;
}

// |found - exact| for a sum of n products is at most about n roundings of the
// largest partial sum; sqrt(n) of them in practice, doubled twice for safety.
// Offsets of integer codes add up to `spread` times the size of the terms.
void expect_linear(const std::vector<float>& found, const std::vector<float>& w, const std::vector<double>& x,
                   std::int64_t tokens, std::int64_t rows, std::int64_t cols, double spread,
                   const std::vector<float>& bias, const std::vector<float>* accumulate, const std::string& what) {
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t r = 0; r < rows; ++r) {
      double sum = bias.empty() ? 0 : bias[static_cast<std::size_t>(r)];
      double size = 0;
      for (std::int64_t i = 0; i < cols; ++i) {
        const double term =
            static_cast<double>(w[static_cast<std::size_t>(r * cols + i)]) * x[static_cast<std::size_t>(t * cols + i)];
        sum += term;
        size += std::fabs(term);
      }
      const auto at = static_cast<std::size_t>(t * rows + r);
      if (accumulate != nullptr) sum += (*accumulate)[at];
      const double tolerance =
          4 * kUnit * (spread * size + std::fabs(sum) + 1e-3) * std::sqrt(static_cast<double>(cols) + 4);
      ASSERT_NEAR(found[at], sum, tolerance) << what << " token " << t << " row " << r;
    }
  }
}

TEST_P(EveryKernelSet, PackedLinearsMatchTheReference) {
  unsigned seed = 1;
  std::vector<FormatSpec> specs = kernel_specs();
  for (const FormatSpec& spec : sparse_specs()) specs.push_back(spec);
  for (const FormatSpec& spec : specs) {
    for (const auto& [rows, cols, tokens] :
         {std::tuple(16, 32, 1), std::tuple(35, 100, 13), std::tuple(7, 144, 3), std::tuple(48, 320, 8)}) {
      const TestMatrix matrix = packed_matrix(spec, rows, cols, ++seed);
      const PanelMatrix panels(matrix.weight, rows, cols, test_pool());
      const auto x = normal_data(static_cast<std::size_t>(tokens * cols), ++seed);
      const auto bias = normal_data(static_cast<std::size_t>(rows), ++seed);
      const std::vector<double> exact_x(x.begin(), x.end());
      const auto w = matrix.decoded();
      // Codes are at most 2^bits steps from zero, weights of normal data a few.
      const double spread = 8;
      expect_linear(run_linear(k, panels, nullptr, LinearInput::kF32, tokens, x, bias, nullptr), w, exact_x, tokens,
                    rows, cols, spread, bias, nullptr, text(spec) + " f32");
      if (panels.view().integer) {
        expect_linear(run_linear(k, panels, nullptr, LinearInput::kQ8, tokens, x, bias, nullptr), w,
                      dequantized(k, x, tokens, cols), tokens, rows, cols, 32, bias, nullptr, text(spec) + " q8");
      }
    }
  }
}

// To the last bit, whatever tokens are beside it: a step that checks guesses gives what a step of each would.
TEST_P(EveryKernelSet, TokensOfPackedLinearsAreTheSameBesideOthers) {
  unsigned seed = 50;
  const std::int64_t rows = 35;
  const std::int64_t cols = 96;
  for (const FormatSpec& spec : kernel_specs()) {
    const TestMatrix matrix = packed_matrix(spec, rows, cols, ++seed);
    const PanelMatrix panels(matrix.weight, rows, cols, test_pool());
    if (!panels.view().integer) continue;
    const auto x = normal_data(static_cast<std::size_t>(9 * cols), ++seed);
    std::vector<float> alone;
    for (std::int64_t t = 0; t < 9; ++t) {
      const std::vector<float> one(x.begin() + t * cols, x.begin() + (t + 1) * cols);
      const auto out = run_linear(k, panels, nullptr, LinearInput::kQ8, 1, one, {}, nullptr);
      alone.insert(alone.end(), out.begin(), out.end());
    }
    for (std::int64_t tokens = 2; tokens <= 9; ++tokens) {
      const auto found = run_linear(k, panels, nullptr, LinearInput::kQ8, tokens, x, {}, nullptr);
      EXPECT_TRUE(std::equal(found.begin(), found.end(), alone.begin())) << text(spec) << ", " << tokens << " tokens";
    }
  }
}

TEST_P(EveryKernelSet, DenseLinearsMatchTheReferenceAndAccumulate) {
  unsigned seed = 100;
  for (const DType type : {DType::kF32, DType::kF16, DType::kBf16}) {
    for (const auto& [rows, cols, tokens] : {std::tuple(16, 32, 1), std::tuple(35, 101, 14), std::tuple(1, 1, 2)}) {
      const TestMatrix matrix = dense_matrix(type, rows, cols, ++seed);
      const PanelMatrix panels(matrix.weight, rows, cols, test_pool());
      const auto x = normal_data(static_cast<std::size_t>(tokens * cols), ++seed);
      const auto before = normal_data(static_cast<std::size_t>(tokens * rows), ++seed);
      const std::vector<double> exact_x(x.begin(), x.end());
      expect_linear(run_linear(k, panels, nullptr, LinearInput::kF32, tokens, x, {}, &before), matrix.decoded(),
                    exact_x, tokens, rows, cols, 1, {}, &before, std::string(dtype_name(type)));
    }
  }
}

TEST_P(EveryKernelSet, Bf16LinearsMatchTheReferenceOnRoundedActivations) {
  if (k.linear_bf16 == nullptr) {
    ASSERT_EQ(k.round_bf16, nullptr);
    return;
  }
  unsigned seed = 150;
  for (const auto& [rows, cols, tokens] :
       {std::tuple(16, 32, 1), std::tuple(35, 101, 14), std::tuple(1, 1, 2), std::tuple(48, 320, 8)}) {
    const TestMatrix matrix = dense_matrix(DType::kBf16, rows, cols, ++seed);
    const PanelMatrix panels(matrix.weight, rows, cols, test_pool());
    const auto x = normal_data(static_cast<std::size_t>(tokens * cols), ++seed);
    const auto bias = normal_data(static_cast<std::size_t>(rows), ++seed);
    std::vector<double> rounded;
    for (const float value : x) rounded.push_back(bf16_to_f32(f32_to_bf16(value)));
    expect_linear(run_linear(k, panels, nullptr, LinearInput::kBf16, tokens, x, bias, nullptr), matrix.decoded(),
                  rounded, tokens, rows, cols, 1, bias, nullptr, "bf16");
  }
}

TEST_P(EveryKernelSet, RowsOfDenseMatricesDecodeExactly) {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBf16}) {
    const TestMatrix matrix = dense_matrix(type, 21, 75, 310);
    const PanelMatrix panels(matrix.weight, 21, 75, test_pool());
    std::vector<float> found(75);
    for (std::int64_t row = 0; row < 21; ++row) {
      panels.decode_row(row, found.data());
      for (std::size_t i = 0; i < 75; ++i)
        ASSERT_EQ(found[i], matrix.decoded()[static_cast<std::size_t>(row) * 75 + i]);
    }
  }
}

TEST_P(EveryKernelSet, GatedLinearIsSiluOfTheGateTimesTheOther) {
  const std::int64_t rows = 40;
  const std::int64_t cols = 96;
  const std::int64_t tokens = 5;
  const TestMatrix up = packed_matrix(default_spec(Format::kFp4), rows, cols, 201);
  const TestMatrix gate = packed_matrix(default_spec(Format::kS4), rows, cols, 202);
  const PanelMatrix up_panels(up.weight, rows, cols, test_pool());
  const PanelMatrix gate_panels(gate.weight, rows, cols, test_pool());
  const auto x = normal_data(static_cast<std::size_t>(tokens * cols), 203, 4);
  for (const LinearInput input : {LinearInput::kF32, LinearInput::kQ8}) {
    const auto g = run_linear(k, gate_panels, nullptr, input, tokens, x, {}, nullptr);
    const auto u = run_linear(k, up_panels, nullptr, input, tokens, x, {}, nullptr);
    const auto found = run_linear(k, up_panels, &gate_panels, input, tokens, x, {}, nullptr);
    for (std::size_t i = 0; i < found.size(); ++i) {
      const double expected = g[i] / (1 + std::exp(-static_cast<double>(g[i]))) * u[i];
      ASSERT_NEAR(found[i], expected, 1e-6 * (1 + std::fabs(expected)));
    }
  }
}

TEST_P(EveryKernelSet, RowsOfTheKernelLayoutDecodeExactly) {
  for (const FormatSpec& spec : kernel_specs()) {
    const TestMatrix matrix = packed_matrix(spec, 21, 75, 300);
    const PanelMatrix panels(matrix.weight, 21, 75, test_pool());
    std::vector<float> expected(75);
    std::vector<float> found(75);
    for (std::int64_t row = 0; row < 21; ++row) {
      matrix.weight.decode_row(row, 75, expected.data());
      panels.decode_row(row, found.data());
      // NVFP4 multiplies by the reciprocal of the tensor's scale: two roundings more.
      for (std::size_t i = 0; i < 75; ++i) {
        if (spec.format == Format::kNvfp4) {
          ASSERT_NEAR(found[i], expected[i], 4 * kUnit * std::fabs(expected[i])) << text(spec);
        } else {
          ASSERT_EQ(found[i], expected[i]) << text(spec);
        }
      }
    }
  }
}

TEST_P(EveryKernelSet, ActivationsQuantizeToTheNearestOf255Levels) {
  for (const std::int64_t n : {1, 16, 17, 32, 33, 100}) {
    auto x = normal_data(static_cast<std::size_t>(n), 7);
    x[0] = 3;
    const auto found = dequantized(k, x, 1, n);
    for (std::int64_t begin = 0; begin < n; begin += kBlock) {
      double largest = 0;
      for (std::int64_t i = begin; i < std::min(n, begin + kBlock); ++i)
        largest = std::max(largest, std::fabs(static_cast<double>(x[static_cast<std::size_t>(i)])));
      for (std::int64_t i = begin; i < std::min(n, begin + kBlock); ++i) {
        EXPECT_NEAR(found[static_cast<std::size_t>(i)], x[static_cast<std::size_t>(i)], largest / 127 * 0.5001);
      }
    }
  }
  std::vector<float> zeros(40, 0.0F);
  for (const double x : dequantized(k, zeros, 1, 40)) EXPECT_EQ(x, 0);
}

TEST_P(EveryKernelSet, VectorOpsMatchTheReference) {
  for (const std::int64_t n : {1, 15, 16, 17, 64, 100, 576}) {
    const auto size = static_cast<std::size_t>(n);
    const auto x = normal_data(size, 8, 3);
    const auto y = normal_data(size, 9);
    std::vector<float> out(size + 1, 42);
    k.rms_norm(x.data(), y.data(), n, 1e-5F, out.data());
    double squares = 0;
    for (const float v : x) squares += static_cast<double>(v) * v;
    const double factor = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5);
    for (std::size_t i = 0; i < size; ++i)
      EXPECT_NEAR(out[i], x[i] * factor * y[i], 2e-6 * (std::fabs(x[i] * y[i]) + 1e-3));
    k.gated({Gate::kSilu}, x.data(), y.data(), n, out.data());
    for (std::size_t i = 0; i < size; ++i) {
      const double expected = x[i] / (1 + std::exp(-static_cast<double>(x[i]))) * y[i];
      EXPECT_NEAR(out[i], expected, 1e-6 * (std::fabs(expected) + 1e-6));
    }
    k.layer_norm(x.data(), y.data(), n, 1e-5F, out.data());
    double mean = 0;
    for (const float v : x) mean += v / static_cast<double>(n);
    double deviations = 0;
    for (const float v : x) deviations += (v - mean) * (v - mean);
    const double scale = 1 / std::sqrt(deviations / static_cast<double>(n) + 1e-5);
    for (std::size_t i = 0; i < size; ++i)
      EXPECT_NEAR(out[i], (x[i] - mean) * scale * y[i],
                  5e-6 * (std::fabs(scale * y[i]) * (std::fabs(x[i]) + 1) + 1e-3));
    std::copy(x.begin(), x.end(), out.begin());
    k.scale(out.data(), n, 0.5F, 0);
    for (std::size_t i = 0; i < size; ++i) EXPECT_EQ(out[i], 0.5F * x[i]);
    std::copy(x.begin(), x.end(), out.begin());
    k.add(out.data(), y.data(), n, 1);
    for (std::size_t i = 0; i < size; ++i) EXPECT_EQ(out[i], x[i] + y[i]);
    std::copy(x.begin(), x.end(), out.begin());
    k.add(out.data(), y.data(), n, 0.3F);
    for (std::size_t i = 0; i < size; ++i)
      EXPECT_NEAR(out[i], x[i] + 0.3F * y[i], 1e-7 * (std::fabs(x[i]) + std::fabs(y[i])));
    EXPECT_EQ(out[size], 42);  // nothing past the end
  }
}

TEST_P(EveryKernelSet, SiluHoldsAtTheEnds) {
  const std::vector<float> gate{-1e4F, -100, -88, -87, -20, -0.0F, 0, 1e-30F, 20, 88, 1e4F};
  const std::vector<float> up(gate.size(), 1);
  std::vector<float> out(gate.size());
  k.gated({Gate::kSilu}, gate.data(), up.data(), static_cast<std::int64_t>(gate.size()), out.data());
  for (std::size_t i = 0; i < gate.size(); ++i) {
    const double expected = gate[i] / (1 + std::exp(-static_cast<double>(gate[i])));
    EXPECT_NEAR(out[i], expected,
                1e-6 * std::fabs(expected) + 1e-30 + (gate[i] < -87 ? 1e-33 + std::fabs(gate[i]) * 1.2e-38 : 0))
        << gate[i];
  }
}

TEST_P(EveryKernelSet, GelusMatchTheReference) {
  std::vector<float> gate{-1e4F, -0.0F, 0, 1e-30F, 1e4F};
  for (float x = -12; x < 12; x += 0.0137F) gate.push_back(x);
  const auto n = static_cast<std::int64_t>(gate.size());
  const std::vector<float> up(gate.size(), 1);
  std::vector<float> by_erf(gate.size());
  std::vector<float> by_tanh(gate.size());
  k.gated({Gate::kGelu}, gate.data(), up.data(), n, by_erf.data());
  k.gated({Gate::kGeluTanh}, gate.data(), up.data(), n, by_tanh.data());
  for (std::size_t i = 0; i < gate.size(); ++i) {
    const double x = gate[i];
    EXPECT_NEAR(by_erf[i], 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))), 3e-7 * std::fabs(x)) << x;
    const double u = std::sqrt(2 / 3.14159265358979) * (x + 0.044715 * x * x * x);
    EXPECT_NEAR(by_tanh[i], 0.5 * x * (1 + std::tanh(u)), 3e-7 * std::fabs(x)) << x;
  }
}

TEST_P(EveryKernelSet, ClampedGatesMatchTheReferenceAndKeepWhatIsNotANumber) {
  std::vector<float> gate{-1e30F, -1e4F, -88, -7, -0.0F, 0, 1e-30F, 7, 7.01F, 1e30F};
  for (float x = -12; x < 12; x += 0.0137F) gate.push_back(x);
  std::vector<float> up = normal_data(gate.size(), 12, 4);
  gate.insert(gate.end(), {std::nanf(""), 1});
  up.insert(up.end(), {1, std::nanf("")});
  std::vector<float> out(gate.size());
  k.gated({Gate::kClamped, 1.702F, 7}, gate.data(), up.data(), static_cast<std::int64_t>(gate.size()), out.data());
  for (std::size_t i = 0; i + 2 < gate.size(); ++i) {
    const double g = std::min<double>(gate[i], 7);
    const double u = std::clamp<double>(up[i], -7, 7);
    const double expected = (u + 1) * g / (1 + std::exp(-static_cast<double>(1.702F) * g));
    EXPECT_NEAR(out[i], expected, 2e-6 * std::fabs(expected) + std::fabs(g * u) * 1e-30) << gate[i] << " and " << up[i];
  }
  EXPECT_TRUE(std::isnan(out[gate.size() - 2]));
  EXPECT_TRUE(std::isnan(out.back()));
}

TEST_P(EveryKernelSet, SoftCapsMatchTheReferenceAndKeepWhatIsNotANumber) {
  constexpr float kCap = 3;
  std::vector<float> x{-1e30F, -100, -0.0F, 0, 1e-30F, 1e-4F, 100, 1e30F};
  for (float v = -40; v < 40; v += 0.0473F) x.push_back(v);
  std::vector<float> out = x;
  k.scale(out.data(), static_cast<std::int64_t>(out.size()), 2, kCap);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = kCap * std::tanh(2.0 * x[i] / kCap);
    EXPECT_NEAR(out[i], expected, 5e-7 * std::fabs(expected)) << x[i];
  }
  float nan = std::nanf("");
  k.scale(&nan, 1, 1, kCap);
  EXPECT_TRUE(std::isnan(nan));
}

// Against the f32 product with the same decoded weights, in double precision.
TEST_P(EveryKernelSet, TransposedLinearsMatchTheReference) {
  for (const Format format : {Format::kFp4, Format::kFp8E4M3, Format::kInt3, Format::kNvfp4}) {
    for (const std::int64_t rows : {5, 32, 50}) {
      const std::int64_t cols = 72;
      const TestMatrix matrix = packed_matrix(default_spec(format), rows, cols, 31);
      const PanelMatrix panels(matrix.weight, rows, cols, test_pool());
      const std::int64_t tokens = 6;
      const auto x = normal_data(static_cast<std::size_t>(tokens * rows), 32);
      std::vector<float> out(static_cast<std::size_t>(tokens * cols + 1), 42);
      std::vector<float> scratch(static_cast<std::size_t>(transposed_scratch_floats(panels.view())));
      k.linear_transposed({&panels.view(), tokens, x.data(), rows, out.data(), cols, scratch.data()});
      EXPECT_EQ(out.back(), 42);
      std::vector<float> row(static_cast<std::size_t>(cols));
      std::vector<double> expected(static_cast<std::size_t>(tokens * cols));
      std::vector<double> magnitude(expected.size());
      for (std::int64_t r = 0; r < rows; ++r) {
        matrix.weight.decode_row(r, cols, row.data());
        for (std::int64_t t = 0; t < tokens; ++t) {
          for (std::int64_t c = 0; c < cols; ++c) {
            const double product = static_cast<double>(x[static_cast<std::size_t>(t * rows + r)]) *
                                   static_cast<double>(row[static_cast<std::size_t>(c)]);
            expected[static_cast<std::size_t>(t * cols + c)] += product;
            magnitude[static_cast<std::size_t>(t * cols + c)] += std::fabs(product);
          }
        }
      }
      for (std::size_t i = 0; i < expected.size(); ++i) {
        ASSERT_NEAR(out[i], expected[i], magnitude[i] * (2 + static_cast<double>(rows)) * 0x1p-23)
            << format_info(format).name << ' ' << rows << " rows, output " << i;
      }
    }
  }
}

TEST_P(EveryKernelSet, RopeRotatesNeighboursWhereInterleaved) {
  const auto before = normal_data(10, 12);
  auto x = before;
  const std::vector<float> cosines{0.5F, 0.25F, 1, -1, 0};
  const std::vector<float> sines{0.1F, 0.9F, 0, 0.2F, 1};
  k.rope_interleaved(x.data(), 5, cosines.data(), sines.data());
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_NEAR(x[2 * i], before[2 * i] * cosines[i] - before[2 * i + 1] * sines[i], 1e-6);
    EXPECT_NEAR(x[2 * i + 1], before[2 * i + 1] * cosines[i] + before[2 * i] * sines[i], 1e-6);
  }
}

TEST_P(EveryKernelSet, RopeRotatesPairsHalfAHeadApart) {
  for (const std::int64_t dim : {2, 6, 32, 34, 64, 128}) {
    const std::int64_t heads = 3;
    auto x = normal_data(static_cast<std::size_t>(heads * dim), 10);
    const auto before = x;
    std::vector<float> cosines;
    std::vector<float> sines;
    for (std::int64_t i = 0; i < dim / 2; ++i) {
      cosines.push_back(std::cos(0.3F * static_cast<float>(i)));
      sines.push_back(std::sin(0.3F * static_cast<float>(i)));
    }
    k.rope(x.data(), heads, dim, dim / 2, cosines.data(), sines.data());
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t i = 0; i < dim / 2; ++i) {
        const auto a = static_cast<std::size_t>(h * dim + i);
        const auto b = a + static_cast<std::size_t>(dim / 2);
        const auto c = static_cast<std::size_t>(i);
        EXPECT_NEAR(x[a], before[a] * cosines[c] - before[b] * sines[c], 1e-6);
        EXPECT_NEAR(x[b], before[b] * cosines[c] + before[a] * sines[c], 1e-6);
      }
    }
  }
}

struct AttentionCase {
  int head_dim;
  int group;
  int past;
  int tokens;
  int window;
  int value_dim;
  bool latent = false;
  bool sinks = false;
};

// A row as a cache of this type gives it back: the nearest of a code's levels times the group's scale.
void round_as_cached(CacheType type, float* row, std::size_t width) {
  if (type == CacheType::kF32) return;
  if (type == CacheType::kF16) {
    for (std::size_t i = 0; i < width; ++i) row[i] = f16_to_f32(f32_to_f16(row[i]));
    return;
  }
  std::vector<double> levels;
  if (type == CacheType::kFp8 || type == CacheType::kFp4) {
    for (const float level : decode_table(type == CacheType::kFp8 ? Format::kFp8E4M3 : Format::kFp4))
      if (std::isfinite(level)) levels.push_back(level);
  } else {
    const int most = type == CacheType::kInt8 ? 127 : 7;
    for (int level = -most; level <= most; ++level) levels.push_back(level);
  }
  const double limit = *std::max_element(levels.begin(), levels.end());
  for (std::size_t begin = 0; begin < width; begin += 32) {
    const std::size_t end = std::min(begin + 32, width);
    float top = 0;
    for (std::size_t i = begin; i < end; ++i) top = std::max(top, std::fabs(row[i]));
    const float scale = f16_to_f32(f32_to_f16(static_cast<float>(top / limit)));
    for (std::size_t i = begin; i < end; ++i) {
      double nearest = 0;
      for (const double level : levels) {
        if (std::fabs(level * scale - row[i]) < std::fabs(nearest * scale - row[i])) nearest = level;
      }
      row[i] = static_cast<float>(nearest * scale);
    }
  }
}

void check_attention(const Kernels& k, const AttentionCase& c, CacheType type) {
  const CachePage layout{c.head_dim, c.value_dim, c.latent, type};
  const int total = c.past + c.tokens;
  const int pages = (total + kCachePageTokens - 1) / kCachePageTokens;
  const std::size_t bytes = page_bytes(layout);
  // Unwritten slots hold NaN: nothing may depend on them.
  std::vector<std::byte> cache(bytes * static_cast<std::size_t>(pages + 2), std::byte{0xFF});
  std::vector<std::int32_t> table;
  for (int p = 0; p < pages; ++p) table.push_back(pages + 1 - p);  // any order
  const auto dim = static_cast<std::size_t>(c.head_dim);
  const auto value_dim = static_cast<std::size_t>(c.value_dim);
  auto keys = normal_data(static_cast<std::size_t>(total) * dim, 20);
  auto values = normal_data(static_cast<std::size_t>(total) * value_dim, 21);
  for (std::size_t t = 0; c.latent && t < static_cast<std::size_t>(total); ++t)
    std::copy_n(keys.begin() + static_cast<std::ptrdiff_t>(t * dim), value_dim,
                values.begin() + static_cast<std::ptrdiff_t>(t * value_dim));
  for (int t = 0; t < total; ++t) {
    store_token(k, layout, keys.data() + static_cast<std::size_t>(t) * dim,
                values.data() + static_cast<std::size_t>(t) * value_dim, t % kCachePageTokens,
                cache.data() + static_cast<std::size_t>(table[static_cast<std::size_t>(t / kCachePageTokens)]) * bytes);
  }
  for (std::size_t t = 0; t < static_cast<std::size_t>(total); ++t) {
    round_as_cached(type, keys.data() + t * dim, dim);
    // A latent value is a part of its key.
    if (c.latent) {
      std::copy_n(keys.begin() + static_cast<std::ptrdiff_t>(t * dim), value_dim,
                  values.begin() + static_cast<std::ptrdiff_t>(t * value_dim));
    } else {
      round_as_cached(type, values.data() + t * value_dim, value_dim);
    }
  }
  const int rows = c.tokens * c.group;
  const auto q = normal_data(static_cast<std::size_t>(rows) * dim, 22);
  std::vector<float> out(static_cast<std::size_t>(rows) * value_dim + 1, 42);
  std::vector<float> scratch(static_cast<std::size_t>(attention_scratch_floats(rows, layout)));
  AttentionTile tile{};
  tile.q = q.data();
  tile.q_stride = c.group * c.head_dim;
  tile.out = out.data();
  tile.out_stride = c.group * c.value_dim;
  tile.out_head = c.value_dim;
  tile.tokens = c.tokens;
  tile.group = c.group;
  tile.page = layout;
  tile.scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
  tile.first_position = c.past;
  tile.window = c.window;
  const auto sinks = normal_data(static_cast<std::size_t>(c.group), 23);
  if (c.sinks) tile.sinks = sinks.data();
  tile.pages = table.data();
  tile.cache = cache.data();
  tile.page_stride = bytes;
  tile.scratch = scratch.data();
  k.attention(tile);
  for (int row = 0; row < rows; ++row) {
    const int position = c.past + row / c.group;
    const int begin = c.window > 0 ? std::max(0, position + 1 - c.window) : 0;
    std::vector<double> weights;
    double top = -1e300;
    for (int t = begin; t <= position; ++t) {
      double score = 0;
      for (std::size_t d = 0; d < dim; ++d)
        score += static_cast<double>(q[static_cast<std::size_t>(row) * dim + d]) *
                 keys[static_cast<std::size_t>(t) * dim + d];
      weights.push_back(score * tile.scale);
      top = std::max(top, weights.back());
    }
    const double sink = sinks[static_cast<std::size_t>(row % c.group)];
    if (c.sinks) top = std::max(top, sink);
    double sum = c.sinks ? std::exp(sink - top) : 0;
    for (double& w : weights) sum += w = std::exp(w - top);
    for (std::size_t d = 0; d < value_dim; ++d) {
      double expected = 0;
      for (int t = begin; t <= position; ++t)
        expected +=
            weights[static_cast<std::size_t>(t - begin)] / sum * values[static_cast<std::size_t>(t) * value_dim + d];
      // Scores are off by a few roundings of their size (below 10), weights by as
      // much in relation; values are of size 1.
      ASSERT_NEAR(out[static_cast<std::size_t>(row) * value_dim + d], expected, 1e-5)
          << "row " << row << " dim " << d << " head size " << c.head_dim;
    }
  }
  EXPECT_EQ(out.back(), 42);
}

TEST_P(EveryKernelSet, AttentionMatchesTheReference) {
  for (const CacheType type :
       {CacheType::kF32, CacheType::kF16, CacheType::kFp8, CacheType::kInt8, CacheType::kInt4, CacheType::kFp4}) {
    for (const AttentionCase& c :
         {AttentionCase{64, 3, 0, 1, 0, 64}, AttentionCase{64, 3, 70, 1, 0, 64}, AttentionCase{32, 1, 0, 40, 0, 32},
          AttentionCase{80, 4, 13, 9, 0, 80}, AttentionCase{24, 2, 100, 5, 0, 24},
          AttentionCase{128, 8, 200, 4, 0, 128}, AttentionCase{64, 2, 90, 20, 16, 64},
          AttentionCase{64, 1, 0, 30, 5, 64}, AttentionCase{6, 1, 17, 3, 1, 6}, AttentionCase{48, 1, 30, 5, 0, 20},
          AttentionCase{16, 2, 30, 5, 0, 72}, AttentionCase{80, 4, 70, 3, 0, 64, true},
          AttentionCase{576, 5, 33, 1, 0, 512, true}, AttentionCase{27, 1, 0, 17, 0, 21, true},
          AttentionCase{64, 8, 150, 3, 0, 64, false, true}, AttentionCase{32, 2, 9, 40, 16, 32, false, true},
          AttentionCase{8, 1, 0, 3, 1, 8, false, true}}) {
      check_attention(k, c, type);
    }
  }
}

}  // namespace
}  // namespace metal_marlin::cpu
