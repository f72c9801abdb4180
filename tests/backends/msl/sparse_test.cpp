// N:M sparse matrices on every executor: what is kept, and products with it.
#include "backends/msl/sparse.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "backends/msl/typed_data.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

class Sparse : public OnExecutor {};
INSTANTIATE_TEST_SUITE_P(Executor, Sparse, testing::ValuesIn(executors()), executor_name);

// The largest of each group, of equals the first.
std::vector<float> pruned(const std::vector<float>& weights, std::size_t cols, const SparsePattern& p) {
  std::vector<float> out(weights.size(), 0);
  for (std::size_t row = 0; row < weights.size(); row += cols) {
    for (std::size_t first = 0; first < cols; first += p.of) {
      std::vector<std::size_t> order(std::min<std::size_t>(p.of, cols - first));
      std::iota(order.begin(), order.end(), row + first);
      std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        const auto size = [&](std::size_t i) { return std::isnan(weights[i]) ? INFINITY : std::fabs(weights[i]); };
        return size(a) > size(b);
      });
      for (std::size_t n = 0; n < std::min<std::size_t>(p.kept, order.size()); ++n) out[order[n]] = weights[order[n]];
    }
  }
  return out;
}

TEST_P(Sparse, KeepsTheLargestAndMultiplies) {
  constexpr std::size_t kRows = 7;
  constexpr std::size_t kTokens = 6;
  for (const SparsePattern& pattern :
       {SparsePattern{1, 4}, SparsePattern{2, 4}, SparsePattern{2, 8}, SparsePattern{4, 8}}) {
    for (const DType type : {DType::kF32, DType::kF16, DType::kBf16}) {
      for (const std::size_t cols : {std::size_t{1}, std::size_t{64}, std::size_t{203}}) {
        auto values = normal_data(kRows * cols, static_cast<unsigned>(cols));
        for (std::size_t i = 0; i < cols; ++i) values[i] = std::round(values[i] * 2) / 2;  // equals and zeros
        const TypedData weights(type, values);
        const auto x = normal_data(kTokens * cols, 9);
        const SparseMatrix matrix = make_sparse_matrix(*device, pattern, type, kRows, static_cast<std::int64_t>(cols));
        const auto in = device->allocate_with(weights.bytes);
        const auto back = device->allocate(weights.bytes.size());
        const auto x_buffer = device->allocate_with(x);
        const auto y = device->allocate(kTokens * kRows * sizeof(float));
        run([&](Commands& c) {
          encode_sparse_compress(*device, c, *in, matrix);
          encode_sparse_decompress(*device, c, matrix, *back);
          encode_sparse_linear(*device, c, matrix, kTokens, *x_buffer, *y);
        });
        const std::vector<float> expected = pruned(weights.values, cols, pattern);
        const TypedData found(type, *back);
        for (std::size_t i = 0; i < expected.size(); ++i)
          ASSERT_EQ(found.values[i], expected[i]) << pattern.kept << ":" << pattern.of << " cols " << cols << " " << i;
        const TypedData product(DType::kF32, *y);
        for (std::size_t t = 0; t < kTokens; ++t) {
          for (std::size_t r = 0; r < kRows; ++r) {
            double sum = 0;
            double size = 0;
            for (std::size_t k = 0; k < cols; ++k) {
              const double term = static_cast<double>(expected[r * cols + k]) * x[t * cols + k];
              sum += term;
              size += std::fabs(term);
            }
            ASSERT_NEAR(product.values[t * kRows + r], sum, size * static_cast<double>(cols + 8) * 0x1p-24 + 1e-30);
          }
        }
      }
    }
  }
}

TEST_P(Sparse, NanIsKept) {
  const std::vector<float> weights = {1, std::nanf(""), 3, 2};
  const SparseMatrix matrix = make_sparse_matrix(*device, {1, 4}, DType::kF32, 1, 4);
  const auto in = device->allocate_with(weights);
  run([&](Commands& c) {
    encode_sparse_compress(*device, c, *in, matrix);
    encode_sparse_decompress(*device, c, matrix, *in);
  });
  const TypedData found(DType::kF32, *in);
  EXPECT_TRUE(std::isnan(found.values[1]));
  EXPECT_EQ(found.values[2], 0);
}

TEST_P(Sparse, RefusesOtherPatterns) {
  EXPECT_THROW(make_sparse_matrix(*device, {3, 4}, DType::kF32, 4, 4), Error);
  EXPECT_THROW(make_sparse_matrix(*device, {2, 16}, DType::kF32, 4, 4), Error);
  EXPECT_THROW(make_sparse_matrix(*device, {2, 4}, DType::kI8, 4, 4), Error);
}

}  // namespace
}  // namespace metal_marlin::msl
