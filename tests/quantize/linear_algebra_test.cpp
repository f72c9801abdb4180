// Matrix functions against their definitions, in the best instruction set that runs here.
#include "quantize/linear_algebra.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <thread>
#include <vector>

namespace metal_marlin::linear_algebra {
namespace {

template <typename T>
std::vector<T> random_values(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<T> out(count);
  for (T& x : out) x = static_cast<T>(normal(random));
  return out;
}

// A^T A of a random matrix of twice as many rows, and a little on the diagonal.
template <typename T>
std::vector<T> positive_definite(std::size_t n, unsigned seed) {
  const auto a = random_values<double>(2 * n * n, seed);
  std::vector<T> out(n * n);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      double sum = i == j ? 0.1 : 0;
      for (std::size_t k = 0; k < 2 * n; ++k) sum += a[k * n + i] * a[k * n + j];
      out[i * n + j] = static_cast<T>(sum / static_cast<double>(2 * n));
    }
  }
  return out;
}

// H U^T U is the identity.
template <typename T>
void check_inverse_factor(std::size_t n, double tolerance) {
  const std::vector<T> h = positive_definite<T>(n, static_cast<unsigned>(n));
  std::vector<T> u = h;
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < i; ++j) u[i * n + j] = static_cast<T>(std::nan(""));  // nobody reads the lower half
  }
  ASSERT_TRUE(inverse_factor(static_cast<std::int64_t>(n), u.data()));
  std::vector<double> inverse(n * n);
  for (std::size_t k = 0; k < n; ++k) {
    for (std::size_t i = k; i < n; ++i) {
      for (std::size_t j = k; j < n; ++j) inverse[i * n + j] += static_cast<double>(u[k * n + i]) * u[k * n + j];
    }
  }
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      double sum = 0;
      for (std::size_t k = 0; k < n; ++k) sum += static_cast<double>(h[i * n + k]) * inverse[k * n + j];
      ASSERT_NEAR(sum, i == j ? 1 : 0, tolerance) << n << " [" << i << ", " << j << "]";
    }
  }
}

TEST(LinearAlgebra, InverseFactors) {
  for (const std::size_t n : {1U, 2U, 7U, 31U, 32U, 33U, 65U, 100U, 150U}) {
    check_inverse_factor<double>(n, 1e-11 * static_cast<double>(n));
    check_inverse_factor<float>(n, 1e-4 * static_cast<double>(n));  // the condition is some tens
  }
}

TEST(LinearAlgebra, MatricesThatHaveNoFactorAreTold) {
  for (std::vector<float> m : {std::vector<float>{1, 2, 2, 1}, std::vector<float>{0, 0, 0, 0},
                               std::vector<float>{1, NAN, NAN, 1}, std::vector<float>{-1, 0, 0, 1}})
    EXPECT_FALSE(inverse_factor(2, m.data()));
}

TEST(LinearAlgebra, Products) {
  constexpr std::size_t kM = 37;
  constexpr std::size_t kN = 70;
  constexpr std::size_t kK = 53;
  constexpr std::size_t kStride = 101;
  const auto a = random_values<float>(kK * kStride, 1);
  const auto c = random_values<float>(kM * kStride, 2);
  std::vector<float> found = c;
  multiply_transposed(kM, kN, kK, a.data(), a.data() + 20, kStride, found.data(), kStride);
  for (std::size_t i = 0; i < kM; ++i) {
    for (std::size_t j = 0; j < kStride; ++j) {
      double sum = c[i * kStride + j];
      for (std::size_t k = 0; j < kN && k < kK; ++k)
        sum += static_cast<double>(a[k * kStride + i]) * a[k * kStride + 20 + j];
      ASSERT_NEAR(found[i * kStride + j], sum, 1e-4) << i << " " << j;
    }
  }
  found = c;
  subtract_product(kM, kN, kK, c.data() + 40, kStride, a.data(), kStride, found.data(), kStride);
  for (std::size_t i = 0; i < kM; ++i) {
    for (std::size_t j = 0; j < kN; ++j) {
      double sum = c[i * kStride + j];
      for (std::size_t k = 0; k < kK; ++k) sum -= static_cast<double>(c[i * kStride + 40 + k]) * a[k * kStride + j];
      ASSERT_NEAR(found[i * kStride + j], sum, 1e-4) << i << " " << j;
    }
  }
  const auto x = random_values<float>(kM * kN, 3);
  std::vector<float> symmetric = positive_definite<float>(kN, 4);
  const std::vector<float> whole = symmetric;
  for (std::size_t i = 0; i < kN; ++i) {
    for (std::size_t j = i + 1; j < kN; ++j) symmetric[i * kN + j] = NAN;  // nobody reads the upper half
  }
  std::vector<float> product(kM * kN);
  multiply_symmetric(kM, kN, x.data(), symmetric.data(), product.data());
  for (std::size_t i = 0; i < kM; ++i) {
    for (std::size_t j = 0; j < kN; ++j) {
      double sum = 0;
      for (std::size_t k = 0; k < kN; ++k) sum += static_cast<double>(x[i * kN + k]) * whole[k * kN + j];
      ASSERT_NEAR(product[i * kN + j], sum, 1e-4) << i << " " << j;
    }
  }
}

// Many threads at once get what one gets, bit by bit.
TEST(LinearAlgebra, ThreadsDoNotDisturbEachOther) {
  constexpr std::int64_t kSize = 320;
  const auto x = random_values<float>(static_cast<std::size_t>(kSize * 200), 5);
  const auto product = [&] {
    std::vector<float> c(static_cast<std::size_t>(kSize * kSize));
    multiply_transposed(kSize, kSize, 200, x.data(), x.data(), kSize, c.data(), kSize);
    return c;
  };
  const std::vector<float> expected = product();
  for (int round = 0; round < 20; ++round) {
    std::vector<std::vector<float>> found(4);
    std::vector<std::thread> threads;
    for (auto& out : found) threads.emplace_back([&] { out = product(); });
    for (std::thread& thread : threads) thread.join();
    for (const auto& out : found) ASSERT_EQ(out, expected);
  }
}

}  // namespace
}  // namespace metal_marlin::linear_algebra
