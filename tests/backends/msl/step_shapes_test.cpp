#include "backends/msl/step_shapes.h"

#include <gtest/gtest.h>

#include <set>

#include "backends/msl/devices.h"

namespace metal_marlin::msl {
namespace {

TEST(StepShapes, BucketsHoldTheirCountsAndLittleMore) {
  std::set<std::int64_t> buckets;
  for (std::int64_t count = 0; count <= 512; ++count) {
    const std::int64_t bucket = bucket_of(count, 512);
    EXPECT_GE(bucket, count);
    EXPECT_LE(bucket - count, most_padding(512));
    EXPECT_LE(bucket * 8, count * 9) << count;
    EXPECT_EQ(bucket_of(bucket, 512), bucket);
    buckets.insert(bucket);
  }
  EXPECT_EQ(buckets.size(), 57U);  // 0 to 16, and 8 from each power of two on
  EXPECT_EQ(bucket_of(97, 100), 100);
  EXPECT_EQ(bucket_of(99, 99), 99);
  EXPECT_EQ(most_padding(512), 31);
  EXPECT_EQ(most_padding(16), 0);
}

TEST(StepShapes, TheShapeUsedLongestAgoIsForgotten) {
  const auto device = make_device("msl-host");
  int encoded = 0;
  const auto encode = [&] {
    ++encoded;
    return device->commands();
  };
  EncodedSteps steps(2);
  const Commands* const first = &steps.get({1, 1}, encode);
  steps.get({2, 1}, encode);
  EXPECT_EQ(&steps.get({1, 1}, encode), first);
  EXPECT_EQ(encoded, 2);
  steps.get({1, 0}, encode);  // in place of {2, 1}
  EXPECT_EQ(steps.size(), 2U);
  EXPECT_EQ(&steps.get({1, 1}, encode), first);
  EXPECT_EQ(encoded, 3);
  steps.get({2, 1}, encode);
  EXPECT_EQ(encoded, 4);
  steps.clear();
  EXPECT_EQ(steps.size(), 0U);
}

}  // namespace
}  // namespace metal_marlin::msl
