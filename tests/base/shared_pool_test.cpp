#include "base/shared_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace metal_marlin {
namespace {

TEST(SharedPool, IsOneForAllWhoAskForAsManyThreads) {
  const auto two = shared_pool(2);
  EXPECT_EQ(two->size(), 2);
  EXPECT_EQ(shared_pool(2), two);
  EXPECT_NE(shared_pool(3), two);
  EXPECT_EQ(shared_pool(0)->size(), usable_cores());
}

TEST(SharedPool, TasksOfSeveralThreadsTakeTurns) {
  std::atomic<int> inside{0};
  std::atomic<int> runs{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      const auto pool = shared_pool(2);
      for (int i = 0; i < 50; ++i) {
        pool->run([&](int thread) {
          const bool alone = thread != 0 || inside.fetch_add(1) == 0;
          EXPECT_TRUE(alone);
          pool->barrier();
          ++runs;
          pool->barrier();
          if (thread == 0) --inside;
        });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(runs, 4 * 50 * 2);
}

}  // namespace
}  // namespace metal_marlin
