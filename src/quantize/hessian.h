// What a linear layer's inputs were: the sum of x x^T over the rows x of a calibration text.
#pragma once

#include <cstdint>
#include <vector>

namespace metal_marlin {

class ThreadPool;

class HessianSum {
 public:
  explicit HessianSum(std::int64_t cols);
  // Adds `rows` rows of `cols` elements. The sum does not depend on the number of threads.
  void add(const float* x, std::int64_t rows, ThreadPool& pool);

  [[nodiscard]] double mean_of_diagonal() const;
  // The diagonal, something added, over its mean: how much an error in each column counts.
  [[nodiscard]] std::vector<float> importance(double added) const;
  // As of rows whose blocks of so many elements were rotated (formats/hadamard.h).
  [[nodiscard]] HessianSum rotated(std::int64_t block, ThreadPool& pool) const;

  [[nodiscard]] std::int64_t cols() const { return cols_; }
  [[nodiscard]] std::int64_t rows() const { return rows_; }  // that were added
  // Symmetric; only [i][j] with j <= i is kept.
  [[nodiscard]] float at(std::int64_t i, std::int64_t j) const {
    return i >= j ? sums_[static_cast<std::size_t>(i * cols_ + j)] : sums_[static_cast<std::size_t>(j * cols_ + i)];
  }
  // [cols][cols], of which the lower half counts.
  [[nodiscard]] const float* lower() const { return sums_.data(); }

 private:
  std::int64_t cols_;
  std::int64_t rows_ = 0;
  std::vector<float> sums_;
};

}  // namespace metal_marlin
