#include "formats/sparsity.h"

#include <gtest/gtest.h>

#include <bit>
#include <vector>

#include "formats/codec.h"

namespace metal_marlin {
namespace {

// Of each set of places that are not zero: two of the four hold them all, or there are more.
TEST(Sparsity, KeptPositionsAreThoseThatAreNotZero) {
  for (const Format format : {Format::kFp4, Format::kMxfp4, Format::kNvfp4, Format::kS4}) {
    const std::uint8_t zero = zero_code(format);
    for (unsigned set = 0; set < 16; ++set) {
      std::array<std::uint8_t, 4> codes{};
      for (std::size_t i = 0; i < 4; ++i) codes[i] = (set >> i & 1U) != 0 ? zero ^ 3U : zero;
      const auto kept = kept_positions(format, codes);
      ASSERT_EQ(kept.has_value(), std::popcount(set) <= 2) << set;
      if (!kept) continue;
      EXPECT_LT((*kept)[0], (*kept)[1]);
      EXPECT_LT((*kept)[1], 4);
      EXPECT_EQ(set & ~(1U << (*kept)[0] | 1U << (*kept)[1]), 0U) << set;
    }
  }
}

// FP4 has two zeros, and either may be left out.
TEST(Sparsity, MinusZeroIsZero) {
  const std::array<std::uint8_t, 4> codes{8, 1, 8, 2};
  const auto kept = kept_positions(Format::kFp4, codes);
  ASSERT_TRUE(kept);
  EXPECT_EQ(*kept, (std::array<std::uint8_t, 2>{1, 3}));
}

TEST(Sparsity, PruneKeepsTwoOfFour) {
  std::vector<float> x{1, -4, 3, 2, 5, 5, 5, 5};
  prune(x, {});
  EXPECT_EQ(x, (std::vector<float>{0, -4, 3, 0, 5, 5, 0, 0}));  // of equals the later go
  x = {1, -4, 3, 2};
  prune(x, std::vector<float>{100, 1, 1, 1});
  EXPECT_EQ(x, (std::vector<float>{1, -4, 0, 0}));
}

}  // namespace
}  // namespace metal_marlin
