#include "io/text_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <thread>

#include "test_data.h"

namespace metal_marlin {
namespace {

TEST(TextFile, IsReadWhole) {
  const TemporaryFolder work;
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{65536}, std::size_t{200001}}) {
    std::string text(size, 'a');
    if (size > 1) text[size / 2] = '\0';
    std::ofstream(work.path() / "text") << text;
    EXPECT_EQ(read_text_file(work.path() / "text"), text) << size;
  }
}

TEST(TextFile, ThatCannotBeReadIsNamed) {
  const TemporaryFolder work;
  expect_error(ErrorCode::kNotFound, (work.path() / "none").string(), [&] { read_text_file(work.path() / "none"); });
  expect_error(ErrorCode::kIo, "not a regular file", [&] { read_text_file(work.path()); });
  expect_error(ErrorCode::kInvalidArgument, "longer than", [] { read_text_file("/dev/zero"); });
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
}

}  // namespace
}  // namespace metal_marlin
