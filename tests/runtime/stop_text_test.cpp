#include "runtime/stop_text.h"

#include <gtest/gtest.h>

namespace metal_marlin {
namespace {

TEST(StopText, HoldsBackWhatMayBecomeAStop) {
  StopText stop({"END", "\n\n"});
  EXPECT_EQ(stop.push("one E"), "one ");
  EXPECT_EQ(stop.push("N"), "");
  EXPECT_EQ(stop.push("V\n"), "ENV");
  EXPECT_EQ(stop.push("x"), "\nx");
  EXPECT_EQ(stop.push("abENDcd"), "ab");
  EXPECT_TRUE(stop.stopped());
  EXPECT_EQ(stop.push("more"), "");
  EXPECT_EQ(stop.finish(), "");
}

TEST(StopText, SaysWhichItWasAndShowsItWhereAsked) {
  for (const bool shown : {false, true}) {
    StopText stop({"two", "on", "one"}, shown);
    EXPECT_EQ(stop.push("a o"), "a ");
    EXPECT_EQ(stop.found(), "");
    EXPECT_EQ(stop.push("ne two"), shown ? "on" : "");  // the first to begin, and of those the first named
    EXPECT_EQ(stop.found(), "on");
    EXPECT_EQ(stop.push("x"), "");
  }
}

TEST(StopText, WithoutAStopEverythingComesOut) {
  StopText stop({"END"});
  EXPECT_EQ(stop.push("the EN"), "the ");
  EXPECT_EQ(stop.finish(), "EN");
}

}  // namespace
}  // namespace metal_marlin
