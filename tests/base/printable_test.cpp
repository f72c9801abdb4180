#include "base/printable.h"

#include <gtest/gtest.h>

namespace metal_marlin {
namespace {

TEST(Printable, CommandsOfATerminalAndBytesThatAreNoTextAreWritten) {
  EXPECT_EQ(printable("na\xC3\xAFve \xF0\x9F\x98\x80"), "na\xC3\xAFve \xF0\x9F\x98\x80");
  EXPECT_EQ(printable("\x1b[31mred\x7f\r"), "\\x1b[31mred\\x7f\\x0d");
  EXPECT_EQ(printable("\xff \xC2\x9B \xE2\x82"), "\\xff \\xc2\\x9b \\xe2\\x82");
}

TEST(Printable, LinesStayInTextAndNotInNames) {
  EXPECT_EQ(printable("a\n\tb"), "a\n\tb");
  EXPECT_EQ(printable_line("a\n\tb"), "a\\x0a\\x09b");
}

}  // namespace
}  // namespace metal_marlin
