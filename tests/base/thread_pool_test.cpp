#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <numeric>
#include <stdexcept>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

TEST(ThreadPool, RunsEveryIndexOnce) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    std::vector<std::atomic<int>> hits(1000);
    for (int round = 0; round < 20; ++round) {
      pool.parallel_for(1000, 7, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) ++hits[static_cast<std::size_t>(i)];
      });
    }
    for (const auto& hit : hits) EXPECT_EQ(hit.load(), 20);
  }
}

TEST(ThreadPool, BarrierSeparatesPhases) {
  ThreadPool pool(4);
  std::vector<int> a(4);
  std::atomic<int> wrong{0};
  pool.run([&](int thread) {
    for (int phase = 1; phase < 500; ++phase) {
      a[static_cast<std::size_t>(thread)] = phase;
      pool.barrier();
      if (std::accumulate(a.begin(), a.end(), 0) != 4 * phase) ++wrong;
      pool.barrier();
    }
  });
  EXPECT_EQ(wrong.load(), 0);
}

TEST(ThreadPool, ExceptionsReachTheCallerAndThePoolGoesOn) {
  ThreadPool pool(3);
  EXPECT_THROW(pool.parallel_for(100, 1,
                                 [](std::int64_t begin, std::int64_t) {
                                   if (begin == 50) throw std::runtime_error("x");
                                 }),
               std::runtime_error);
  std::atomic<int> count{0};
  pool.parallel_for(100, 1, [&](std::int64_t, std::int64_t) { ++count; });
  EXPECT_EQ(count.load(), 100);
}

// Whichever thread throws, the others do not wait for it at a barrier.
TEST(ThreadPool, ExceptionsEndBarriers) {
  ThreadPool pool(4);
  for (int round = 0; round < 200; ++round) {
    EXPECT_THROW(pool.run([&](int thread) {
      for (int phase = 0; phase < 5; ++phase) {
        if (thread == round % 4 && phase == round % 5) throw std::bad_alloc();
        pool.barrier();
      }
    }),
                 std::bad_alloc);
  }
  std::vector<int> hits(4);
  std::atomic<int> wrong{0};
  pool.run([&](int thread) {
    hits[static_cast<std::size_t>(thread)] = 1;
    pool.barrier();
    if (std::accumulate(hits.begin(), hits.end(), 0) != 4) ++wrong;
  });
  EXPECT_EQ(wrong.load(), 0);
}

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
// Ends the process with the code of the error that a pool of so many threads is in an address space of 2 GiB.
void start_in_little_space(int threads) {
  const rlimit limit{std::size_t{2} << 30, std::size_t{2} << 30};
  setrlimit(RLIMIT_AS, &limit);
  try {
    const ThreadPool pool(threads);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s", error.what());
    std::_Exit(static_cast<int>(error.code()));
  }
  std::_Exit(0);
}

TEST(ThreadPoolDeathTest, ThreadsThatDoNotStartAreAnError) {
  EXPECT_EXIT(start_in_little_space(10000), testing::ExitedWithCode(static_cast<int>(ErrorCode::kOutOfMemory)),
              "of 10000 threads");
}
#endif

TEST(ThreadPool, NestedWorkRunsInline) {
  ThreadPool pool(3);
  std::atomic<int> count{0};
  pool.parallel_for(4, 1, [&](std::int64_t, std::int64_t) {
    pool.parallel_for(10, 1, [&](std::int64_t, std::int64_t) { ++count; });
  });
  EXPECT_EQ(count.load(), 40);
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

TEST(ThreadPool, SleepsWhenIdle) {
  ThreadPool pool(4);
  pool.run([](int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const double before = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LT(cpu_seconds() - before, 0.03);
}

}  // namespace
}  // namespace metal_marlin
