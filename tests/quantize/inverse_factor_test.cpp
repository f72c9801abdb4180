#include "quantize/inverse_factor.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quantize/random_matrices.h"
#include "test_pool.h"

namespace metal_marlin {
namespace {

// H U^T U is the identity.
template <typename T>
void check_inverse_factor(std::size_t n, double tolerance) {
  const std::vector<T> h = positive_definite<T>(n, static_cast<unsigned>(n));
  std::vector<T> u = h;
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < i; ++j) u[i * n + j] = static_cast<T>(std::nan(""));  // nobody reads the lower half
  }
  ASSERT_TRUE(inverse_factor(static_cast<std::int64_t>(n), u.data(), test_pool()));
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

TEST(InverseFactor, TimesItsTurnedIsTheInverse) {
  for (const std::size_t n : {1U, 2U, 7U, 31U, 32U, 33U, 65U, 100U, 150U, 257U, 390U}) {
    check_inverse_factor<double>(n, 1e-11 * static_cast<double>(n));
    check_inverse_factor<float>(n, 1e-4 * static_cast<double>(n));  // the condition is some tens
  }
}

TEST(InverseFactor, MatricesThatHaveNoFactorAreTold) {
  for (std::vector<float> m : {std::vector<float>{1, 2, 2, 1}, std::vector<float>{0, 0, 0, 0},
                               std::vector<float>{1, NAN, NAN, 1}, std::vector<float>{-1, 0, 0, 1}})
    EXPECT_FALSE(inverse_factor(2, m.data(), test_pool()));
}

TEST(InverseFactor, ThreadsDoNotChangeTheResult) {
  const std::size_t n = 700;
  const std::vector<float> h = random_values<float>(n * n, 6);
  std::vector<float> a(n * n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      a[i * n + j] = i == j ? 1.5F * static_cast<float>(n) : h[std::min(i, j) * n + std::max(i, j)];
  std::vector<float> b = a;
  ThreadPool one(1);
  ThreadPool three(3);
  ASSERT_TRUE(inverse_factor(static_cast<std::int64_t>(n), a.data(), one));
  ASSERT_TRUE(inverse_factor(static_cast<std::int64_t>(n), b.data(), three));
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = i; j < n; ++j) ASSERT_EQ(a[i * n + j], b[i * n + j]);
}

}  // namespace
}  // namespace metal_marlin
