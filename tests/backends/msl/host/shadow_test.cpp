#include "backends/msl/host/shadow.h"

#include <gtest/gtest.h>

#include <random>

namespace metal_marlin::msl {
namespace {

AccessPoint at_epoch(std::uint16_t thread, std::uint32_t epoch) {
  AccessPoint point;
  point.group = 1;
  point.thread = thread;
  point.epoch = epoch;
  return point;
}

TEST(Shadow, BytesOfAWordAreTheirOwn) {
  Shadow shadow(8, false);
  EXPECT_FALSE(shadow.write(0, 4, at_epoch(1, 0)));
  EXPECT_FALSE(shadow.write(0, 1, at_epoch(40, 1)));
  EXPECT_FALSE(shadow.write(1, 1, at_epoch(80, 1)));
  EXPECT_FALSE(shadow.write(2, 2, at_epoch(120, 1)));
  for (const auto& [byte, thread] : {std::pair{0, 40}, {1, 80}, {2, 120}, {3, 120}}) {
    const auto conflict = shadow.read(static_cast<std::size_t>(byte), 1, at_epoch(200, 1));
    ASSERT_TRUE(conflict) << byte;
    EXPECT_EQ(conflict->earlier.thread, thread) << byte;
    EXPECT_TRUE(conflict->earlier_wrote);
  }
}

// Accesses of any size and place find what they find where each byte is accessed for itself.
TEST(Shadow, AccessesAreThoseOfTheirBytes) {
  constexpr std::size_t kBytes = 256;
  for (const bool threadgroup_memory : {false, true}) {
    Shadow shadow(kBytes, threadgroup_memory);
    Shadow bytewise(kBytes, threadgroup_memory);
    std::mt19937 random(7);
    const auto below = [&](std::uint32_t n) { return static_cast<std::uint32_t>(random() % n); };
    int conflicts = 0;
    AccessPoint now;
    now.group = 1;
    for (int i = 0; i < 20000; ++i) {
      if (threadgroup_memory && below(40) == 0) now = {.group = now.group + 1};
      if (below(2) == 0) ++now.epoch;
      if (below(3) == 0) ++now.simd_epoch;
      now.thread = static_cast<std::uint16_t>(below(70));
      now.atomic = below(4) == 0;
      const std::size_t size = std::size_t{1} << below(5);
      const std::size_t at = below(3) == 0 ? below(kBytes - 15) : below(kBytes / 16) * 16;
      const bool write = below(2) == 0;
      SCOPED_TRACE(testing::Message() << i << ": " << (write ? "write " : "read ") << size << " at " << at);

      const auto found = write ? shadow.write(at, size, now) : shadow.read(at, size, now);
      std::optional<Conflict> expected;
      for (std::size_t k = 0; k < size && !expected; ++k)
        expected = write ? bytewise.write(at + k, 1, now) : bytewise.read(at + k, 1, now);
      ASSERT_EQ(found.has_value(), expected.has_value());
      if (found) {
        ++conflicts;
        EXPECT_EQ(found->earlier_wrote, expected->earlier_wrote);
        EXPECT_EQ(found->earlier.thread, expected->earlier.thread);
        EXPECT_EQ(found->earlier.epoch, expected->earlier.epoch);
      }
      bool written = true;
      for (std::size_t k = 0; k < size; ++k) written = written && bytewise.written(at + k, 1, now.group);
      ASSERT_EQ(shadow.written(at, size, now.group), written);
    }
    EXPECT_GT(conflicts, 300);
    EXPECT_LT(conflicts, 10000);
  }
}

}  // namespace
}  // namespace metal_marlin::msl
