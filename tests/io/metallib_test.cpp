#include "io/metallib.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <sstream>

#include "io/mapped_file.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

std::filesystem::path corpus(const std::string& name) {
  return test_data("../fuzz/corpus/metallib") / name;
}

TEST(Metallib, EveryFieldIsRead) {
  const MappedFile file(corpus("all_tags"));
  const Metallib library = parse_metallib(file.bytes(), "all_tags");
  EXPECT_EQ(library.platform, 0x8001);
  EXPECT_EQ(library.format, (MetallibVersion{2, 7}));
  EXPECT_EQ(library.system, 0x81);
  EXPECT_EQ(library.system_version, (MetallibVersion{14, 0}));
  EXPECT_EQ(library.name, "lib");
  ASSERT_TRUE(library.uuid);
  EXPECT_EQ(library.uuid->at(15), std::byte{15});
  ASSERT_EQ(library.functions.size(), 1U);
  const MetallibFunction& function = library.functions[0];
  EXPECT_EQ(function.name, "add");
  EXPECT_EQ(function.type, MetallibFunctionType::kKernel);
  EXPECT_EQ(function.air, (MetallibVersion{2, 6}));
  EXPECT_EQ(function.language, (MetallibVersion{3, 1}));
  EXPECT_EQ(function.bitcode.size(), 32U);
  EXPECT_EQ(function.hash, sha256_of(function.bitcode));
  ASSERT_EQ(function.constants.size(), 1U);
  EXPECT_EQ(function.constants[0].name, "wide");
  EXPECT_EQ(function.constants[0].type, 53);
  EXPECT_EQ(function.constants[0].index, 3);
  ASSERT_EQ(function.public_tags.size(), 1U);
  EXPECT_EQ(function.public_tags[0].name, "MORE");
  EXPECT_TRUE(function.private_tags.empty());
  ASSERT_TRUE(function.reflection);
  EXPECT_EQ(function.reflection->at(0).name, "RBUF");
  EXPECT_EQ(function.reflection->at(0).value.size(), 3U);
}

TEST(Metallib, WhatIsWrittenIsReadBack) {
  std::vector<std::byte> module(48, std::byte{7});
  Metallib library;
  library.name = "two";
  library.functions.resize(2);
  library.functions[0].name = "first";
  library.functions[0].constants = {{"on", 53, 300, 1}, {"count", 29, 2, 1}};
  library.functions[0].bitcode = module;
  library.functions[1].name = "second";
  library.functions[1].air = {2, 8};
  library.functions[1].bitcode = std::span(module).first(16);
  const std::vector<std::byte> written = write_metallib(library);
  const Metallib read = parse_metallib(written, "written");
  EXPECT_EQ(read.name, "two");
  ASSERT_EQ(read.functions.size(), 2U);
  EXPECT_EQ(read.functions[0].constants[0].index, 300);
  EXPECT_EQ(read.functions[0].constants[1].name, "count");
  EXPECT_FALSE(read.functions[0].reflection);
  EXPECT_EQ(read.functions[1].name, "second");
  EXPECT_EQ(read.functions[1].air, (MetallibVersion{2, 8}));
  EXPECT_TRUE(std::ranges::equal(read.functions[1].bitcode, library.functions[1].bitcode));
  EXPECT_EQ(write_metallib(read), written);
}

TEST(Metallib, WhatCannotBeWrittenIsRefused) {
  std::vector<std::byte> module(20);
  Metallib library;
  library.functions.resize(1);
  library.functions[0].name = "f";
  library.functions[0].bitcode = module;
  expect_error(ErrorCode::kInvalidArgument, "function f: 20 bytes of bitcode", [&] { write_metallib(library); });
  library.functions[0].bitcode = std::span(module).first(16);
  const std::vector<std::byte> large(1 << 16);
  library.functions[0].private_tags = {{"LONG", large}};
  expect_error(ErrorCode::kInvalidArgument, "tag LONG of 65536 bytes", [&] { write_metallib(library); });
}

TEST(Metallib, BadFilesAreRefusedByName) {
  const auto expect = [&](const char* name, const std::string& text) {
    const MappedFile file(corpus(name));
    expect_error(ErrorCode::kCorruptFile, text, [&] { parse_metallib(file.bytes(), name); });
  };
  expect("short", "short: 289 bytes by its header, found 288");
  expect("size", "1152921504606846976 bytes by its header");
  expect("count", "count: functions: needs 4 bytes");
  expect("hash", "function 0 (add): tag HASH is not the SHA-256");
  expect("no_versions", "function 0 (add): tag VERS is missing");
  expect("name", "function 0: tag NAME: a name has no zero");
  expect("tag_size", "function 0 (add): tag MDSZ: needs 8 bytes");
  expect("module_size", "function 0 (add): bitcode: 9223372036854775808 bytes at offset 0, there are 32");
  expect("offset", "function 0 (add): private metadata: 4 bytes at offset 1099511627776, there are 8");
  expect("shared", "function 1 (sub): bitcode: it is part of another function too");
  expect("constants", "function 0 (add): tag CNST: needs 2 bytes");
  expect("open_list", "function 0: needs 4 bytes");
  expect("reflection", "function 0 (add): reflection: 4 bytes at offset 90");
  expect_error(ErrorCode::kCorruptFile, "x: no Metal library", [] { parse_metallib({}, "x"); });
}

// Fixtures, and the files by Apple's tools that tools/check_air.sh fetches and names in METAL_MARLIN_METALLIBS.
TEST(Metallib, IsWrittenByteForByte) {
  std::vector<std::filesystem::path> paths = {corpus("good"), corpus("empty")};
  const char* const more = std::getenv("METAL_MARLIN_METALLIBS");
  std::istringstream named(more != nullptr ? more : "");
  for (std::string path; std::getline(named, path, ':');) paths.emplace_back(path);
  for (const std::filesystem::path& path : paths) {
    const MappedFile file(path);
    EXPECT_TRUE(std::ranges::equal(write_metallib(parse_metallib(file.bytes(), path.string())), file.bytes())) << path;
  }
}

}  // namespace
}  // namespace metal_marlin
