#include "io/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "test_data.h"

namespace metal_marlin {
namespace {

std::string text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST(MappedFile, HoldsTheWholeFile) {
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 20000; ++i) text += static_cast<char>(i % 251);  // no whole pages
  std::ofstream(folder.path() / "file", std::ios::binary) << text;
  const MappedFile file(folder.path() / "file");
  EXPECT_EQ(file.path(), folder.path() / "file");
  EXPECT_EQ(text_of(file), text);
  file.release();
  EXPECT_EQ(text_of(file), text);  // read again
}

TEST(MappedFile, OutlivesTheFilesName) {
  const TemporaryFolder folder;
  std::ofstream(folder.path() / "file") << "text";
  const MappedFile file(folder.path() / "file");
  std::filesystem::remove(folder.path() / "file");
  file.release();
  EXPECT_EQ(text_of(file), "text");
}

TEST(MappedFile, MayBeEmpty) {
  const TemporaryFolder folder;
  std::ofstream(folder.path() / "empty");
  const MappedFile file(folder.path() / "empty");
  EXPECT_TRUE(file.bytes().empty());
  file.release();
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  const TemporaryFolder folder;
  const auto pipe = folder.path() / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const auto expect = [](ErrorCode code, const std::string& text, const std::filesystem::path& path) {
    expect_error(code, path.string() + ": " + text, [&] { const MappedFile file(path); });
  };
  expect(ErrorCode::kIo, "not a regular file", pipe);  // without waiting for a writer
  expect(ErrorCode::kIo, "not a regular file", folder.path());
  expect(ErrorCode::kIo, "not a regular file", "/dev/null");
  expect(ErrorCode::kNotFound, "cannot open", folder.path() / "none");
}

}  // namespace
}  // namespace metal_marlin
