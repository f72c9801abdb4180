#include "io/file_write.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <thread>

#include "io/mapped_file.h"
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

TEST(FileWrite, ReplacesFilesAlone) {
  const TemporaryFolder folder;
  expect_error(ErrorCode::kInvalidArgument, "not a regular file", [&] { const OutputFile file(folder.path()); });
  expect_error(ErrorCode::kInvalidArgument, "not a regular file", [&] { const OutputFile file("/dev/null"); });
  write_file_atomically(folder.path() / "file", "text");
  expect_error(ErrorCode::kInvalidArgument, "not a folder", [&] { OutputFolder(folder.path() / "file", true); });
}

TEST(TextFile, APipeIsReadToItsEnd) {
  const TemporaryFolder folder;
  const auto pipe = folder.path() / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const std::string text(200000, 'x');
  std::thread writer([&] {
    std::FILE* const file = std::fopen(pipe.c_str(), "w");
    std::fwrite(text.data(), 1, text.size(), file);
    std::fclose(file);
  });
  EXPECT_EQ(read_text_file(pipe), text);
  writer.join();
  // As a file of weights it is refused, without waiting for a writer.
  expect_error(ErrorCode::kIo, "not a regular file", [&] { const MappedFile file(pipe); });
}

TEST(TextFile, FoldersAndWhatNeverEnds) {
  const TemporaryFolder folder;
  expect_error(ErrorCode::kIo, "not a regular file", [&] { read_text_file(folder.path()); });
  expect_error(ErrorCode::kNotFound, "cannot open", [&] { read_text_file(folder.path() / "none"); });
  expect_error(ErrorCode::kInvalidArgument, "longer than", [&] { read_text_file("/dev/zero"); });
}

}  // namespace
}  // namespace metal_marlin
