#include "formats/hadamard.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

namespace metal_marlin {
namespace {

std::vector<float> some(std::size_t count) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (float& x : out) x = normal(random);
  return out;
}

// Sylvester's matrix over its root: the sign of row i, column j is that of the bits that both have.
double element(unsigned i, unsigned j, std::int64_t block) {
  return (std::popcount(i & j) % 2 == 0 ? 1 : -1) / std::sqrt(static_cast<double>(block));
}

TEST(Hadamard, EachBlockIsMultipliedByTheMatrix) {
  for (const std::int64_t block : {16, 32, 64, 128}) {
    const std::vector<float> x = some(static_cast<std::size_t>(3 * block));
    std::vector<float> found = x;
    rotate_blocks(found.data(), 3 * block, block);
    for (std::int64_t begin = 0; begin < 3 * block; begin += block) {
      for (std::int64_t i = 0; i < block; ++i) {
        double expected = 0;
        for (std::int64_t j = 0; j < block; ++j) {
          expected += element(static_cast<unsigned>(i), static_cast<unsigned>(j), block) *
                      static_cast<double>(x[static_cast<std::size_t>(begin + j)]);
        }
        EXPECT_NEAR(found[static_cast<std::size_t>(begin + i)], expected, 1e-5) << block << " " << i;
      }
    }
    rotate_blocks(found.data(), 3 * block, block);  // undoes itself
    for (std::size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(found[i], x[i], 1e-5);
  }
}

TEST(Hadamard, ColumnsAreRotatedAsRowsAre) {
  constexpr std::int64_t kRows = 32;
  constexpr std::int64_t kCols = 5;
  const std::vector<float> x = some(kRows * kCols);
  std::vector<float> found = x;
  rotate_row_blocks(found.data(), kRows, kCols, 16);
  for (std::size_t c = 0; c < kCols; ++c) {
    std::vector<float> column;
    for (std::size_t r = 0; r < kRows; ++r) column.push_back(x[r * kCols + c]);
    rotate_blocks(column.data(), kRows, 16);
    for (std::size_t r = 0; r < kRows; ++r) EXPECT_EQ(found[r * kCols + c], column[r]) << r << " " << c;
  }
}

}  // namespace
}  // namespace metal_marlin
