#include "io/byte_reader.h"

#include <gtest/gtest.h>

#include "test_data.h"

namespace metal_marlin {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

TEST(ByteReader, ReadsInOrder) {
  ByteReader in(bytes_of(std::string_view("\x01\x02\x03\x04\x05"
                                          "ab"
                                          "name\0z",
                                          13)),
                "x");
  EXPECT_EQ(in.read<std::uint16_t>(), 0x0201);
  EXPECT_EQ(in.read<std::uint8_t>(), 3);
  EXPECT_EQ(in.since(1).size(), 2);
  EXPECT_EQ(in.take(2)[1], std::byte{5});
  EXPECT_EQ(in.text(2), "ab");
  EXPECT_EQ(in.zero_terminated(), "name");
  EXPECT_EQ(in.position(), 12);
  EXPECT_EQ(in.text(1), "z");
  EXPECT_NO_THROW(in.at_end());
}

TEST(ByteReader, NothingIsReadBeyondTheEnd) {
  ByteReader in(bytes_of("abc"), "model.gguf: header");
  in.take(1);
  expect_error(ErrorCode::kCorruptFile, "model.gguf: header: needs 4 bytes at offset 1, there are 2 left",
               [&] { in.read<std::uint32_t>(); });
  expect_error(ErrorCode::kCorruptFile, "needs 18446744073709551615 bytes", [&] { in.take(UINT64_MAX); });
  expect_error(ErrorCode::kCorruptFile, "no zero at its end", [&] { in.zero_terminated(); });
  in.set_context("tensor a");
  expect_error(ErrorCode::kCorruptFile, "tensor a: 2 bytes more than expected", [&] { in.at_end(); });
  EXPECT_EQ(in.text(2), "bc");  // a failure takes nothing
}

}  // namespace
}  // namespace metal_marlin
