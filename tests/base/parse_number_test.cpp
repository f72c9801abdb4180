#include "base/parse_number.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

namespace metal_marlin {
namespace {

TEST(ParseNumber, TakesAWholeText) {
  EXPECT_EQ(parse_number<int>("-12"), -12);
  EXPECT_EQ(parse_number<std::uint64_t>("18446744073709551615"), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(parse_number<float>("0.5"), 0.5F);
  EXPECT_EQ(parse_number<float>("-1e-3"), -1e-3F);
  EXPECT_EQ(parse_number<double>("0.1"), 0.1);
  EXPECT_EQ(parse_number<float>("inf"), std::numeric_limits<float>::infinity());
}

TEST(ParseNumber, TakesNothingElse) {
  for (const char* const text : {"", " ", " 1", "1 ", "\t1", "one", "1x", "0x", "1,5", "--1"}) {
    EXPECT_EQ(parse_number<int>(text), std::nullopt) << text;
    EXPECT_EQ(parse_number<float>(text), std::nullopt) << text;
  }
  EXPECT_EQ(parse_number<int>("1.0"), std::nullopt);
  EXPECT_EQ(parse_number<int>("2147483648"), std::nullopt);
  EXPECT_EQ(parse_number<std::uint64_t>("-1"), std::nullopt);
  EXPECT_EQ(parse_number<float>(std::string("1\0", 2)), std::nullopt);
}

}  // namespace
}  // namespace metal_marlin
