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

TEST(TextFile, MayBeAPipe) {
  const TemporaryFolder work;
  const auto pipe = work.path() / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  std::thread writer([&] { std::ofstream(pipe) << "through the pipe"; });
  EXPECT_EQ(read_text_file(pipe), "through the pipe");
  writer.join();
}

TEST(TextFile, ThatCannotBeReadIsNamed) {
  const TemporaryFolder work;
  expect_error(ErrorCode::kNotFound, (work.path() / "none").string(), [&] { read_text_file(work.path() / "none"); });
  expect_error(ErrorCode::kIo, "not a regular file", [&] { read_text_file(work.path()); });
}

}  // namespace
}  // namespace metal_marlin
