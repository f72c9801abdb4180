#include "backends/msl/metal/barriers.h"

#include <gtest/gtest.h>

#include <array>

namespace metal_marlin::msl::metal {
namespace {

constexpr std::array<char, 2> kAllocations{};
const void* const kA = kAllocations.data();
const void* const kB = kAllocations.data() + 1;

Access read(const void* allocation, std::size_t begin, std::size_t end) {
  return {allocation, begin, end, false};
}
Access write(const void* allocation, std::size_t begin, std::size_t end) {
  return {allocation, begin, end, true};
}
bool must_wait(Hazards& hazards, std::initializer_list<Access> accesses) {
  return hazards.must_wait({accesses.begin(), accesses.size()});
}

TEST(Hazards, ReadersOfTheSameBytesRunSideBySide) {
  Hazards hazards;
  EXPECT_FALSE(must_wait(hazards, {read(kA, 0, 8), write(kB, 0, 4)}));
  EXPECT_FALSE(must_wait(hazards, {read(kA, 0, 8), write(kB, 4, 8)}));
}

TEST(Hazards, AWriteWaitsAndIsWaitedFor) {
  for (const bool first : {false, true}) {
    for (const bool second : {false, true}) {
      Hazards hazards;
      must_wait(hazards, {{kA, 0, 8, first}});
      EXPECT_EQ(must_wait(hazards, {{kA, 7, 12, second}}), first || second);
    }
  }
}

TEST(Hazards, RangesAreOfOneAllocationAndEndBeforeTheirEnd) {
  Hazards hazards;
  must_wait(hazards, {write(kA, 4, 8)});
  EXPECT_FALSE(must_wait(hazards, {write(kA, 8, 12), write(kA, 0, 4), write(kB, 4, 8)}));
  EXPECT_TRUE(must_wait(hazards, {read(kA, 0, 20)}));
}

TEST(Hazards, ABarrierIsForAllBeforeIt) {
  Hazards hazards;
  must_wait(hazards, {write(kA, 0, 4)});
  must_wait(hazards, {write(kB, 0, 4)});
  EXPECT_TRUE(must_wait(hazards, {read(kA, 0, 4), write(kA, 8, 12)}));
  EXPECT_FALSE(must_wait(hazards, {read(kB, 0, 4)}));  // waited for already
  EXPECT_TRUE(must_wait(hazards, {read(kA, 8, 12)}));  // begun after the barrier
}

TEST(Hazards, ADispatchMayTouchBytesTwice) {
  Hazards hazards;
  EXPECT_FALSE(must_wait(hazards, {read(kA, 0, 4), write(kA, 0, 4)}));
}

TEST(Hazards, ForgetWhatIsWaitedForInAnotherWay) {
  Hazards hazards;
  must_wait(hazards, {write(kA, 0, 4)});
  hazards.clear();
  EXPECT_FALSE(must_wait(hazards, {read(kA, 0, 4)}));
}

}  // namespace
}  // namespace metal_marlin::msl::metal
