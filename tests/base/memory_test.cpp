#include "base/memory.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>

#include "test_data.h"

namespace metal_marlin {
namespace {

TEST(Memory, OfThisMachineIsSaid) {
  EXPECT_GT(available_memory(), std::size_t{1} << 20);
}

#if defined(__linux__)
TEST(Memory, IsNoMoreThanTheProcessMayHave) {
  constexpr std::size_t kLeft = std::size_t{100} << 20;
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_AS, &before), 0);
  rlimit less = before;
  less.rlim_cur = pages * static_cast<std::size_t>(sysconf(_SC_PAGESIZE)) + kLeft;
  ASSERT_EQ(setrlimit(RLIMIT_AS, &less), 0);
  const std::size_t available = available_memory();
  ASSERT_EQ(setrlimit(RLIMIT_AS, &before), 0);
  EXPECT_LE(available, kLeft);
  EXPECT_GT(available, kLeft / 2);
}
#endif

TEST(Memory, ThatIsNotThereIsAnError) {
  EXPECT_NO_THROW(require_memory(100, 100, "x"));
  expect_error(ErrorCode::kOutOfMemory, "a model needs 2.0 KiB, 1.5 KiB is available",
               [] { require_memory(2048, 1536, "a model"); });
}

TEST(Memory, AsText) {
  EXPECT_EQ(byte_text(0), "0 B");
  EXPECT_EQ(byte_text(1023), "1023 B");
  EXPECT_EQ(byte_text(1536), "1.5 KiB");
  EXPECT_EQ(byte_text(std::size_t{3} << 30), "3.0 GiB");
  EXPECT_EQ(byte_text(SIZE_MAX), "16777216.0 TiB");
}

}  // namespace
}  // namespace metal_marlin
