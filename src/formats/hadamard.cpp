#include "formats/hadamard.h"

#include <cmath>
#include <vector>

namespace metal_marlin {

void rotate_blocks(float* x, std::int64_t cols, std::int64_t block) {
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(block)));
  for (float* at = x; at != x + cols; at += block) {
    for (std::int64_t distance = 1; distance < block; distance *= 2) {
      for (std::int64_t first = 0; first < block; first += 2 * distance) {
        for (std::int64_t i = first; i < first + distance; ++i) {
          const float a = at[i];
          const float b = at[i + distance];
          at[i] = a + b;
          at[i + distance] = a - b;
        }
      }
    }
    for (std::int64_t i = 0; i < block; ++i) at[i] *= scale;
  }
}

void rotate_row_blocks(float* x, std::int64_t rows, std::int64_t cols, std::int64_t block) {
  std::vector<float> column(static_cast<std::size_t>(rows));
  for (std::int64_t c = 0; c < cols; ++c) {
    for (std::int64_t r = 0; r < rows; ++r) column[static_cast<std::size_t>(r)] = x[r * cols + c];
    rotate_blocks(column.data(), rows, block);
    for (std::int64_t r = 0; r < rows; ++r) x[r * cols + c] = column[static_cast<std::size_t>(r)];
  }
}

}  // namespace metal_marlin
