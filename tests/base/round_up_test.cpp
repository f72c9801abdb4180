#include "base/round_up.h"

#include <gtest/gtest.h>

namespace metal_marlin {
namespace {

TEST(RoundUp, ToTheNextMultiple) {
  for (const std::int64_t to : {1, 3, 16, 64}) {
    for (std::int64_t n = 0; n <= 4 * to; ++n) {
      const std::int64_t up = round_up(n, to);
      EXPECT_EQ(up % to, 0) << n << " " << to;
      EXPECT_GE(up, n) << n << " " << to;
      EXPECT_LT(up - n, to) << n << " " << to;
      EXPECT_EQ(divide_up(n, to) * to, up) << n << " " << to;
    }
  }
  EXPECT_EQ(divide_up<std::uint32_t>(std::int64_t{1} << 33, 1 << 10), 1U << 23);
}

}  // namespace
}  // namespace metal_marlin
