#include "io/npy.h"

#include <gtest/gtest.h>

#include <fstream>

#include "test_data.h"

namespace metal_marlin {
namespace {

// A file of version 1 with this dictionary and so many bytes of data.
std::vector<std::byte> array_of(const std::string& dictionary, std::size_t data, char version = 1) {
  std::string text = "\x93NUMPY";
  text += version;
  text += '\0';
  text += static_cast<char>(dictionary.size());
  text.append(version == 1 ? 1 : 3, '\0');
  text += dictionary + std::string(data, 'x');
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

constexpr const char* kFloats = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";

TEST(Npy, WhatIsWrittenIsRead) {
  const TemporaryFolder work;
  const std::vector<std::uint16_t> values{1, 2, 3, 4, 5, 65535};
  for (const Shape& shape : {Shape{6}, Shape{2, 3}, Shape{1, 6, 1}}) {
    write_npy(work.path() / "a.npy", "<u2", shape, std::as_bytes(std::span(values)));
    const NpyArray array = read_npy(work.path() / "a.npy");
    EXPECT_EQ(array.type, "<u2");
    EXPECT_EQ(array.element_bytes, 2U);
    EXPECT_EQ(array.shape, shape);
    const auto expected = std::as_bytes(std::span(values));
    EXPECT_TRUE(std::equal(array.bytes.begin(), array.bytes.end(), expected.begin(), expected.end()));
  }
  // As NumPy does, so that data can be mapped.
  std::ifstream file(work.path() / "a.npy", std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  EXPECT_EQ((text.size() - values.size() * 2) % 64, 0U);
}

TEST(Npy, EveryVersion) {
  for (const char version : {'\x01', '\x02', '\x03'})
    EXPECT_EQ(parse_npy(array_of(kFloats, 24, version), "a").shape, (Shape{2, 3}));
  EXPECT_EQ(parse_npy(array_of("{'descr': '|u1', 'fortran_order': False, 'shape': ()}", 1), "a").shape, Shape{});
}

TEST(Npy, FaultsAreNamed) {
  const auto expect = [](ErrorCode code, const char* text, const std::vector<std::byte>& bytes) {
    expect_error(code, std::string("a.npy: ") + text, [&] { parse_npy(bytes, "a.npy"); });
  };
  constexpr ErrorCode kCorrupt = ErrorCode::kCorruptFile;
  expect(kCorrupt, "no .npy file", std::vector<std::byte>(20));
  expect(kCorrupt, ".npy version 4", array_of(kFloats, 24, 4));
  std::vector<std::byte> cut = array_of(kFloats, 0);
  cut.resize(40);
  expect(kCorrupt, "the header is larger than the file", cut);
  expect(kCorrupt, "the header has no 'shape'", array_of("{'descr': '<f4', 'fortran_order': False}", 24));
  expect(kCorrupt, "the shape holds '-'", array_of("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}", 24));
  expect(kCorrupt, "the shape is too large",
         array_of("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", 24));
  for (const std::size_t bytes : std::vector<std::size_t>{0, 23, 25, 28})
    expect_error(kCorrupt, "a.npy", [&] { parse_npy(array_of(kFloats, bytes), "a.npy"); });
  expect(ErrorCode::kUnsupported, "element type '>f4'",
         array_of("{'descr': '>f4', 'fortran_order': False, 'shape': (6,)}", 24));
  expect(ErrorCode::kUnsupported, "the array is in Fortran order",
         array_of("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3)}", 24));
}

}  // namespace
}  // namespace metal_marlin
