#include "io/file_lock.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "test_data.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using Kind = FileLock::Kind;

TEST(FileLock, SharedOnesStandSideBySide) {
  const TemporaryFolder work;
  const fs::path path = work.path() / "folder" / "lock";
  {
    const auto one = FileLock::try_take(path, Kind::kShared);
    const auto two = FileLock::try_take(path, Kind::kShared);
    EXPECT_TRUE(one && two);
    EXPECT_FALSE(FileLock::try_take(path, Kind::kExclusive));
  }
  const auto alone = FileLock::try_take(path, Kind::kExclusive);
  EXPECT_TRUE(alone);
  EXPECT_FALSE(FileLock::try_take(path, Kind::kShared));
}

TEST(FileLock, WaitsUntilItIsToldNotTo) {
  const TemporaryFolder work;
  const fs::path path = work.path() / "lock";
  auto held = FileLock::try_take(path, Kind::kExclusive);
  int calls = 0;
  EXPECT_THROW(FileLock::take(path, Kind::kShared,
                              [&] {
                                if (++calls == 2) throw std::runtime_error("enough");
                              }),
               std::runtime_error);
  EXPECT_EQ(calls, 2);
  static_cast<void>(FileLock::take(path, Kind::kShared, [&] { held.reset(); }));
}

TEST(FileLock, OfAFileThatIsGoneKeepsNobodyAway) {
  const TemporaryFolder work;
  const fs::path path = work.path() / "lock";
  const auto old = FileLock::try_take(path, Kind::kExclusive);
  fs::remove(path);
  EXPECT_TRUE(FileLock::try_take(path, Kind::kExclusive));
}

TEST(FileLock, ThatCannotBeMadeIsNamed) {
  const TemporaryFolder work;
  expect_error(ErrorCode::kIo, work.path().string(),
               [&] { static_cast<void>(FileLock::try_take(work.path(), Kind::kShared)); });
}

}  // namespace
}  // namespace metal_marlin
