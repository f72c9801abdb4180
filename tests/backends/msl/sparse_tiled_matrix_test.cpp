// Products with quantized 2:4 sparse weights on every executor, against the product in double
// of the decoded weights.

#include <cmath>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "backends/msl/linear.h"
#include "test_data.h"

namespace metal_marlin::msl {
namespace {

class SparseProduct : public OnExecutor {};
INSTANTIATE_TEST_SUITE_P(Executor, SparseProduct, testing::ValuesIn(executors()), executor_name);

// Of each four neighbours the two largest, in the format; some groups have fewer.
PackedMatrix sparse_matrix(const FormatSpec& spec, std::int64_t rows, std::int64_t cols, unsigned seed) {
  auto data = normal_data(static_cast<std::size_t>(rows * cols), seed, 0.05F);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t first = 0; first < cols; first += 4) {
      float* const group = data.data() + r * cols + first;
      const std::int64_t count = std::min<std::int64_t>(4, cols - first);
      std::vector<std::int64_t> order(static_cast<std::size_t>(count));
      for (std::int64_t i = 0; i < count; ++i) order[static_cast<std::size_t>(i)] = i;
      std::sort(order.begin(), order.end(),
                [&](std::int64_t a, std::int64_t b) { return std::fabs(group[a]) > std::fabs(group[b]); });
      const std::size_t kept = (r + first / 4) % 7 == 0 ? 1 : 2;
      for (std::size_t i = kept; i < order.size(); ++i) group[order[i]] = 0;
    }
  }
  return quantize_matrix(
      spec, rows, cols, [&](std::int64_t row, float* out) { std::copy_n(data.begin() + row * cols, cols, out); },
      spec.format == Format::kNvfp4 ? 7000.0F : 1.0F, test_pool());
}

TEST_P(SparseProduct, EveryFormat) {
  unsigned seed = 1;
  for (FormatSpec spec : {default_spec(Format::kFp4), default_spec(Format::kMxfp4), default_spec(Format::kNvfp4),
                          default_spec(Format::kS4), FormatSpec{Format::kS4, 128, ScaleType::kBf16, ZeroKind::kNone},
                          FormatSpec{Format::kFp4, 16, ScaleType::kF32, ZeroKind::kNone},
                          FormatSpec{Format::kFp4, 0, ScaleType::kF16, ZeroKind::kNone}}) {
    for (const auto& [rows, cols] : {std::pair{35, 102}, std::pair{16, 64}, std::pair{70, 130}, std::pair{33, 100}}) {
      if (few_shapes() && rows != 35) continue;
      spec.sparse = cols % 4 == 0;  // or stored with its zeros
      const PackedMatrix packed = sparse_matrix(spec, rows, cols, ++seed);
      const Linear linear(*device, make_sparse_tiled_matrix(*device, "w", packed.view(), test_pool()));
      WeightInfo info;
      info.packed = spec;
      if (spec.sparse) {
        EXPECT_EQ(matrix_bytes(info, rows, cols), linear.bytes() + 128) << text(spec);
      }
      const auto bias = normal_data(static_cast<std::size_t>(rows), ++seed);
      const auto bias_buffer = device->allocate_with(bias);
      for (const std::int64_t tokens : {3, 37}) {
        for (const Activations mode : {Activations::kInt8, Activations::kF32}) {
          const auto x = normal_data(static_cast<std::size_t>(tokens * cols), ++seed);
          const auto x_buffer = device->allocate_with(x);
          const bool accumulate = tokens == 3;
          std::vector<float> y(static_cast<std::size_t>(tokens * rows), accumulate ? 2.0F : std::nanf(""));
          const auto y_buffer = device->allocate_with(y);
          const LinearWorkspace workspace(*device, tokens, cols, rows);
          Linear::Call call;
          call.x = x_buffer.get();
          call.y = y_buffer.get();
          call.tokens = tokens;
          call.bias = bias_buffer.get();
          call.accumulate = accumulate;
          call.mode = mode;
          run([&](Commands& commands) { linear.encode(commands, call, workspace); });
          y_buffer->download(std::as_writable_bytes(std::span(y)));
          std::vector<float> w(static_cast<std::size_t>(cols));
          for (std::int64_t r = 0; r < rows; ++r) {
            packed.view().decode_row(r, w.data());
            for (std::int64_t t = 0; t < tokens; ++t) {
              double sum = static_cast<double>(bias[static_cast<std::size_t>(r)]) + (accumulate ? 2.0 : 0.0);
              double size = std::fabs(sum) + (accumulate ? 4.0 : 0.0);
              for (std::size_t k = 0; k < w.size(); ++k) {
                const double term = static_cast<double>(w[k]) * x[static_cast<std::size_t>(t) * w.size() + k];
                sum += term;
                size += std::fabs(term);
              }
              const double unit = mode == Activations::kF32 ? 0x1p-22 : 0x1.1p-11;
              ASSERT_NEAR(y[static_cast<std::size_t>(t * rows + r)], sum,
                          size * (2 * unit + (cols + 8) * 0x1p-23) + 1e-30)
                  << text(spec) << " token " << t << " row " << r;
            }
          }
        }
      }
    }
  }
}

TEST_P(SparseProduct, DenseWeightsAndOtherFormatsAreRefused) {
  const TestMatrix dense = packed_matrix(default_spec(Format::kFp4), 16, 64, 1);
  expect_error(ErrorCode::kInvalidArgument, "tensor w: row 0 has more than two weights that are not zero in inputs",
               [&] { make_sparse_tiled_matrix(*device, "w", dense.packed->view(), test_pool()); });
  const TestMatrix int3 = packed_matrix(default_spec(Format::kInt3), 20, 64, 1);
  expect_error(ErrorCode::kUnsupported, "sparse_gemm has no kernel for int3",
               [&] { make_sparse_tiled_matrix(*device, "w", int3.packed->view(), test_pool()); });
}

}  // namespace
}  // namespace metal_marlin::msl
