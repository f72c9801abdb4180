// Random matrices for tests of matrix functions.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace metal_marlin {

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

}  // namespace metal_marlin
