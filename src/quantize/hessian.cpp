#include "quantize/hessian.h"

#include <algorithm>
#include <utility>

#include "base/round_up.h"
#include "base/thread_pool.h"
#include "formats/hadamard.h"
#include "quantize/linear_algebra.h"

namespace metal_marlin {
namespace {

constexpr std::int64_t kTile = 256;

}  // namespace

HessianSum::HessianSum(std::int64_t cols) : cols_(cols), sums_(static_cast<std::size_t>(cols * cols)) {}

void HessianSum::add(const float* x, std::int64_t rows, ThreadPool& pool) {
  if (rows == 0) return;
  const std::int64_t tiles = divide_up(cols_, kTile);
  std::vector<std::pair<std::int64_t, std::int64_t>> places;
  for (std::int64_t i = 0; i < tiles; ++i)
    for (std::int64_t j = 0; j <= i; ++j) places.emplace_back(i * kTile, j * kTile);
  pool.parallel_for(static_cast<std::int64_t>(places.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t n = begin; n < end; ++n) {
      const auto [i, j] = places[static_cast<std::size_t>(n)];
      // sums[i..][j..] += x[..][i..]^T x[..][j..]
      linear_algebra::multiply_transposed(std::min(kTile, cols_ - i), std::min(kTile, cols_ - j), rows, x + i, x + j,
                                          cols_, sums_.data() + i * cols_ + j, cols_);
    }
  });
  rows_ += rows;
}

double HessianSum::mean_of_diagonal() const {
  double mean = 0;
  for (std::int64_t i = 0; i < cols_; ++i) mean += at(i, i) / static_cast<double>(cols_);
  return mean;
}

std::vector<float> HessianSum::importance(double added) const {
  const double mean = mean_of_diagonal();
  std::vector<float> out(static_cast<std::size_t>(cols_));
  for (std::int64_t i = 0; i < cols_; ++i)
    out[static_cast<std::size_t>(i)] = static_cast<float>((at(i, i) + added) / mean);
  return out;
}

HessianSum HessianSum::rotated(std::int64_t block, ThreadPool& pool) const {
  HessianSum out(cols_);
  out.rows_ = rows_;
  const auto n = static_cast<std::size_t>(cols_);
  // R H R of the whole matrix: rows, then columns of the transposed, which is R H.
  std::vector<float> once(n * n);
  pool.parallel_for(cols_, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      float* const row = once.data() + static_cast<std::size_t>(i) * n;
      for (std::int64_t j = 0; j < cols_; ++j) row[j] = at(i, j);
      rotate_blocks(row, cols_, block);
    }
  });
  pool.parallel_for(cols_, 16, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      float* const row = out.sums_.data() + static_cast<std::size_t>(i) * n;
      for (std::size_t j = 0; j < n; ++j) row[j] = once[j * n + static_cast<std::size_t>(i)];
      rotate_blocks(row, cols_, block);
    }
  });
  return out;
}

}  // namespace metal_marlin
