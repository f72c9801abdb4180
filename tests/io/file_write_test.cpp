#include "io/file_write.h"

#include <gtest/gtest.h>

#include "io/output_folder.h"
#include "io/text_file.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

TEST(FileWrite, AppearsWholeOrNotAtAll) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "file";
  {
    const OutputFile file(path);
    write_and_sync(file.partial(), {});
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  write_file_atomically(path, "text");
  append_to_file(path, " and more");
  EXPECT_EQ(read_text_file(path), "text and more");
  EXPECT_FALSE(std::filesystem::exists(path.string() + ".partial"));
}

TEST(FileWrite, IsNotLedAstrayByWhatIsLeft) {
  const TemporaryFolder folder;
  write_file_atomically(folder.path() / "other", "other");
  std::filesystem::create_symlink("other", folder.path() / "file.partial");
  write_file_atomically(folder.path() / "file", "file");
  EXPECT_EQ(read_text_file(folder.path() / "other"), "other");
  EXPECT_EQ(read_text_file(folder.path() / "file"), "file");
}

TEST(FileWrite, FilesHaveNames) {
  const TemporaryFolder folder;
  for (const std::string& path : {std::string(), (folder.path() / "new/").string()})
    expect_error(ErrorCode::kInvalidArgument, "'" + path + "': expected the name of a file",
                 [&] { OutputFile file(path); });
}

TEST(FileWrite, ReplacesFilesAlone) {
  const TemporaryFolder folder;
  expect_error(ErrorCode::kInvalidArgument, "not a regular file", [&] { const OutputFile file(folder.path()); });
  expect_error(ErrorCode::kInvalidArgument, "not a regular file", [&] { const OutputFile file("/dev/null"); });
  write_file_atomically(folder.path() / "file", "text");
  expect_error(ErrorCode::kInvalidArgument, "not a folder", [&] { OutputFolder(folder.path() / "file", true); });
}

}  // namespace
}  // namespace metal_marlin
