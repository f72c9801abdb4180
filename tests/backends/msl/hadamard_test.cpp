// Hadamard transforms on every executor against matrices in double, made here from
// Sylvester's and Paley's rules.
#include "backends/msl/hadamard.h"

#include <cmath>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "backends/msl/typed_data.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

class Hadamard : public OnExecutor {};
INSTANTIATE_TEST_SUITE_P(Executor, Hadamard, testing::ValuesIn(executors()), executor_name);

using Matrix = std::vector<std::vector<int>>;

int legendre(int a, int q) {
  a = ((a % q) + q) % q;
  if (a == 0) return 0;
  for (int x = 1; x < q; ++x) {
    if (x * x % q == a) return 1;
  }
  return -1;
}

// q = 3 mod 4: I + S, S the skew conference matrix of residues.
Matrix paley_first(int q) {
  const auto n = static_cast<std::size_t>(q + 1);
  Matrix h(n, std::vector<int>(n, 1));
  for (std::size_t i = 1; i < n; ++i) {
    h[i][0] = -1;
    for (std::size_t j = 1; j < n; ++j) h[i][j] = i == j ? 1 : legendre(static_cast<int>(i) - static_cast<int>(j), q);
  }
  return h;
}

// q = 1 mod 4: the symmetric conference matrix, its entries by matrices of order two.
Matrix paley_second(int q) {
  const auto m = static_cast<std::size_t>(q + 1);
  Matrix h(2 * m, std::vector<int>(2 * m));
  for (std::size_t i = 0; i < m; ++i) {
    for (std::size_t j = 0; j < m; ++j) {
      const int c = i == j ? 0 : i == 0 || j == 0 ? 1 : legendre(static_cast<int>(i) - static_cast<int>(j), q);
      const int a = c == 0 ? 1 : c;
      h[2 * i][2 * j] = a;
      h[2 * i][2 * j + 1] = h[2 * i + 1][2 * j] = c == 0 ? -1 : c;
      h[2 * i + 1][2 * j + 1] = c == 0 ? -1 : -c;
    }
  }
  return h;
}

Matrix matrix_of(std::size_t block) {
  std::size_t order = block;
  while (order % 2 == 0) order /= 2;  // 1, 3, 5 or 7
  Matrix h = order == 1 ? Matrix{{1}} : order == 3 ? paley_first(11) : order == 5 ? paley_first(19) : paley_second(13);
  while (h.size() < block) {
    const std::size_t n = h.size();
    Matrix twice(2 * n, std::vector<int>(2 * n));
    for (std::size_t i = 0; i < 2 * n; ++i) {
      for (std::size_t j = 0; j < 2 * n; ++j) twice[i][j] = (i >= n && j >= n ? -1 : 1) * h[i % n][j % n];
    }
    h = twice;
  }
  return h;
}

std::vector<float> transformed(Device& device, const TypedData& x, std::int64_t cols, std::uint32_t block,
                               HadamardDirection direction) {
  const auto buffer = device.allocate_with(x.bytes);
  const auto commands = device.commands();
  encode_hadamard(device, *commands, x.type, static_cast<std::int64_t>(x.values.size()) / cols, cols, block, direction,
                  *buffer, *buffer);
  commands->commit();
  commands->wait();
  return TypedData(x.type, *buffer).values;
}

TEST(HadamardMatrices, AreOrthogonal) {
  for (const std::size_t block : {2U, 16U, 12U, 24U, 20U, 40U, 28U, 56U}) {
    const Matrix h = matrix_of(block);
    for (std::size_t i = 0; i < block; ++i) {
      for (std::size_t j = 0; j < block; ++j) {
        int product = 0;
        for (std::size_t k = 0; k < block; ++k) product += h[i][k] * h[j][k];
        ASSERT_EQ(product, i == j ? static_cast<int>(block) : 0);
      }
    }
  }
}

TEST_P(Hadamard, MatchesTheMatrixAndItsInverseUndoesIt) {
  std::vector<std::uint32_t> blocks = {2, 12, 16, 20, 28, 32, 96, 128, 160, 224, 256};
  if (!few_shapes()) blocks.insert(blocks.end(), {640, 1024, 1792, 4096});
  for (const std::uint32_t block : blocks) {
    for (const DType type : {DType::kF32, DType::kF16, DType::kBf16}) {
      if (block > 300 && type != DType::kF32) continue;
      const std::int64_t cols = block > 1000 ? block : 2 * static_cast<std::int64_t>(block);
      const TypedData x(type, normal_data(static_cast<std::size_t>(2 * cols), block));
      const std::vector<float> y = transformed(*device, x, cols, block, HadamardDirection::kForward);
      const Matrix h = matrix_of(block);
      for (std::size_t i = 0; i < y.size(); ++i) {
        const std::size_t first = i / block * block;
        double expected = 0;
        double size = 0;
        for (std::size_t c = 0; c < block; ++c) {
          expected += h[i - first][c] * static_cast<double>(x.values[first + c]);
          size += std::fabs(x.values[first + c]);
        }
        expected /= std::sqrt(block);
        // A rounding for each of the butterflies' levels and of the small matrix's terms.
        const double tolerance = size / std::sqrt(block) * 40 * 0x1p-24 + std::fabs(expected) * x.unit();
        ASSERT_NEAR(y[i], expected, tolerance) << dtype_name(type) << " block " << block << " element " << i;
      }
      if (type != DType::kF32) continue;
      const std::vector<float> back =
          transformed(*device, TypedData(type, y), cols, block, HadamardDirection::kInverse);
      for (std::size_t i = 0; i < back.size(); ++i) ASSERT_NEAR(back[i], x.values[i], 1e-5) << "block " << block;
    }
  }
}

TEST_P(Hadamard, RefusesOtherBlocks) {
  const auto buffer = device->allocate(8192 * 4);
  const auto commands = device->commands();
  for (const std::uint32_t block : {0U, 1U, 36U, 8192U}) {
    EXPECT_THROW(
        encode_hadamard(*device, *commands, DType::kF32, 1, 8192, block, HadamardDirection::kForward, *buffer, *buffer),
        Error);
  }
  EXPECT_THROW(
      encode_hadamard(*device, *commands, DType::kF32, 1, 100, 16, HadamardDirection::kForward, *buffer, *buffer),
      Error);
}

}  // namespace
}  // namespace metal_marlin::msl
