// Matrix functions against their definitions, in the best instruction set that runs here.
#include "quantize/linear_algebra.h"

#include <gtest/gtest.h>

#include <cmath>
#include <thread>
#include <vector>

#include "quantize/random_matrices.h"

namespace metal_marlin::linear_algebra {
namespace {

// Triangles by their definitions; what lies above them is not read.
template <typename T>
void check_triangles(std::size_t n, double tolerance) {
  const std::vector<T> h = positive_definite<T>(n, static_cast<unsigned>(n));
  const auto size = static_cast<std::int64_t>(n);
  std::vector<T> l = h;
  for (std::size_t i = 0; i < n; ++i)
    std::fill_n(l.begin() + static_cast<std::ptrdiff_t>(i * n + i + 1), n - i - 1, NAN);
  ASSERT_TRUE(cholesky(size, l.data(), size));
  const auto product = [n](const std::vector<T>& a, std::size_t i, const std::vector<T>& b, std::size_t j, bool turned,
                           std::size_t first, std::size_t last) {
    double sum = 0;
    for (std::size_t k = first; k <= last; ++k)
      sum += static_cast<double>(a[i * n + k]) * (turned ? b[j * n + k] : b[k * n + j]);
    return sum;
  };
  std::vector<T> inverse = l;
  invert_lower(size, inverse.data(), size);
  const std::vector<T> x = random_values<T>(3 * n, 8);
  std::vector<T> solved = x;
  solve_transposed(3, size, l.data(), size, solved.data(), size);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      ASSERT_NEAR(product(l, i, l, j, true, 0, j), h[i * n + j], tolerance) << n << " [" << i << ", " << j << "]";
      ASSERT_NEAR(product(l, i, inverse, j, false, j, i), i == j ? 1 : 0, tolerance) << n;
    }
    for (std::size_t r = 0; r < 3; ++r) ASSERT_NEAR(product(solved, r, l, i, true, 0, i), x[r * n + i], tolerance);
  }
}

TEST(LinearAlgebra, Triangles) {
  for (const std::size_t n : {1U, 2U, 7U, 33U, 128U}) {
    check_triangles<double>(n, 1e-11);
    check_triangles<float>(n, 1e-3);
  }
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
  found = c;
  subtract_product_transposed(kM, kM, kN, a.data(), kStride, c.data() + 20, kStride, found.data(), kStride);
  for (std::size_t i = 0; i < kM; ++i) {
    for (std::size_t j = 0; j < kM; ++j) {
      double sum = c[i * kStride + j];
      for (std::size_t k = 0; k < kN; ++k) sum -= static_cast<double>(a[i * kStride + k]) * c[j * kStride + 20 + k];
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
