#include "io/output_folder.h"

#include <gtest/gtest.h>

#include "io/text_file.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

std::size_t entries(const fs::path& folder) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST(OutputFolder, AppearsWhenItIsComplete) {
  const TemporaryFolder work;
  {
    OutputFolder folder(work.path() / "out", false);
    folder.write_file("a.txt", "text");
    EXPECT_FALSE(fs::exists(work.path() / "out"));
    folder.commit();
  }
  EXPECT_EQ(read_text_file(work.path() / "out" / "a.txt"), "text");
  EXPECT_EQ(entries(work.path()), 1);
}

TEST(OutputFolder, HasAName) {
  expect_error(ErrorCode::kInvalidArgument, "the output folder has no name", [] { OutputFolder("", false); });
}

TEST(OutputFolder, LeavesNothingWithoutACommit) {
  const TemporaryFolder work;
  { OutputFolder(work.path() / "out", false).write_file("a.txt", "text"); }
  EXPECT_EQ(entries(work.path()), 0);
}

TEST(OutputFolder, ReplacesOnlyWhenAsked) {
  const TemporaryFolder work;
  for (const char* const text : {"first", "second"}) {
    OutputFolder folder(work.path() / "out", true);
    folder.write_file("a.txt", text);
    folder.commit();
  }
  EXPECT_EQ(read_text_file(work.path() / "out" / "a.txt"), "second");
  EXPECT_EQ(entries(work.path()), 1);
  expect_error(ErrorCode::kInvalidArgument, "out", [&] { OutputFolder(work.path() / "out", false); });
}

TEST(OutputFolder, GoesOnInOneThatIsWanted) {
  const TemporaryFolder work;
  {
    OutputFolder cut(work.path() / "out", false);
    cut.write_file("a.txt", "text");
    cut.keep();
  }
  EXPECT_EQ(entries(work.path()), 1);
  OutputFolder folder(work.path() / "out", false, [](const fs::path& there) { return fs::exists(there / "a.txt"); });
  EXPECT_TRUE(folder.adopted());
  folder.commit();
  EXPECT_EQ(read_text_file(work.path() / "out" / "a.txt"), "text");
}

}  // namespace
}  // namespace metal_marlin
