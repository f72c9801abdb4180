#include "quantize/inverse_factor.h"

#include <algorithm>
#include <vector>

#include "base/round_up.h"
#include "base/thread_pool.h"
#include "quantize/linear_algebra.h"

namespace metal_marlin {
namespace {

constexpr std::int64_t kTriangle = 128;     // of a triangle that one thread takes
constexpr std::int64_t kProductTile = 256;  // rows and columns of a product that one thread takes

std::int64_t tiles(std::int64_t n) {
  return divide_up(n, kProductTile);
}

template <typename T>
class LowerTriangle {
 public:
  LowerTriangle(std::int64_t n, T* matrix, ThreadPool& pool) : n_(n), matrix_(matrix), pool_(pool) {}

  // The Cholesky factor, a block of columns after another, what is right of them made smaller at once.
  bool factor() {
    for (std::int64_t begin = 0; begin < n_; begin += kTriangle) {
      const std::int64_t width = std::min(kTriangle, n_ - begin);
      if (!linear_algebra::cholesky(width, at(begin, begin), n_)) return false;
      const std::int64_t rest = n_ - begin - width;
      T* const below = at(begin + width, begin);
      each_tile(rest, width, [&](std::int64_t i, std::int64_t, std::int64_t rows, std::int64_t) {  // one tile across
        linear_algebra::solve_transposed(rows, width, at(begin, begin), n_, below + i * n_, n_);
      });
      each_tile(rest, rest, [&](std::int64_t i, std::int64_t j, std::int64_t rows, std::int64_t cols) {
        if (j > i) return;
        linear_algebra::subtract_product_transposed(rows, cols, width, below + i * n_, n_, below + j * n_, n_,
                                                    at(begin + width + i, begin + width + j), n_);
      });
    }
    return true;
  }

  // The inverse: the blocks on the diagonal become theirs, then twice as large ones from halves A and C
  // and the B below A, which becomes -C^-1 B A^-1.
  void invert() {
    const std::int64_t blocks = divide_up(n_, kTriangle);
    pool_.parallel_for(blocks, 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t block = first; block < last; ++block)
        linear_algebra::invert_lower(std::min(kTriangle, n_ - block * kTriangle),
                                     at(block * kTriangle, block * kTriangle), n_);
    });
    // Products take whole tiles, what is above the diagonal in them too.
    for (std::int64_t i = 0; i < n_; ++i)
      std::fill(at(i, i) + 1, at(i, std::min(n_, (i / kProductTile + 1) * kProductTile)), T{0});
    for (std::int64_t half = kTriangle; half < n_; half *= 2) {
      for (std::int64_t begin = 0; begin + half < n_; begin += 2 * half)
        join(begin, half, std::min(half, n_ - begin - half));
    }
  }

 private:
  [[nodiscard]] T* at(std::int64_t row, std::int64_t col) const { return matrix_ + row * n_ + col; }

  void join(std::int64_t begin, std::int64_t width, std::int64_t height) {
    T* const below = at(begin + width, begin);
    product_.resize(static_cast<std::size_t>(width * height));
    each_tile(height, width, [&](std::int64_t i, std::int64_t j, std::int64_t rows, std::int64_t cols) {
      T* const out = product_.data() + i * width + j;
      clear(rows, cols, out, width);
      // Above row j the columns of the inverse are zero.
      linear_algebra::subtract_product(rows, cols, width - j, below + i * n_ + j, n_, at(begin + j, begin + j), n_, out,
                                       width);
    });
    each_tile(height, width, [&](std::int64_t i, std::int64_t j, std::int64_t rows, std::int64_t cols) {
      T* const out = below + i * n_ + j;
      clear(rows, cols, out, n_);
      linear_algebra::subtract_product(rows, cols, i + rows, at(begin + width + i, begin + width), n_,
                                       product_.data() + j, width, out, n_);
      for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < cols; ++c) out[r * n_ + c] = -out[r * n_ + c];
    });
  }

  static void clear(std::int64_t rows, std::int64_t cols, T* out, std::int64_t stride) {
    for (std::int64_t r = 0; r < rows; ++r) std::fill_n(out + r * stride, cols, T{0});
  }

  template <typename F>
  void each_tile(std::int64_t height, std::int64_t width, const F& body) {
    const std::int64_t across = tiles(width);
    pool_.parallel_for(tiles(height) * across, 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t tile = first; tile < last; ++tile) {
        const std::int64_t i = tile / across * kProductTile;
        const std::int64_t j = tile % across * kProductTile;
        body(i, j, std::min(kProductTile, height - i), std::min(kProductTile, width - j));
      }
    });
  }

  std::int64_t n_;
  T* matrix_;
  ThreadPool& pool_;
  std::vector<T> product_;
};

}  // namespace

// With its rows and columns in reverse order the matrix is L L^T; L's inverse, put back in order, is U.
// To reverse both is to reverse all elements.
template <typename T>
bool inverse_factor(std::int64_t n, T* matrix, ThreadPool& pool) {
  std::reverse(matrix, matrix + n * n);
  LowerTriangle<T> triangle(n, matrix, pool);
  if (!triangle.factor()) return false;
  triangle.invert();
  std::reverse(matrix, matrix + n * n);
  for (std::int64_t i = 0; i < n; ++i) {
    if (!(matrix[i * n + i] > 0)) return false;  // NaN too
  }
  return true;
}

template bool inverse_factor(std::int64_t, float*, ThreadPool&);
template bool inverse_factor(std::int64_t, double*, ThreadPool&);

}  // namespace metal_marlin
