#include "base/packed_text.h"

#include <fmt/format.h>
#include <zstd.h>

#include <cstdint>
#include <cstring>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// A little-endian word; 0 past the end.
std::uint32_t word(std::span<const std::byte> packed, std::size_t index) {
  std::uint32_t value = 0;
  if ((index + 1) * sizeof(value) <= packed.size())
    std::memcpy(&value, packed.data() + index * sizeof(value), sizeof(value));
  return value;
}

}  // namespace

std::string unpack_text(std::span<const std::byte> packed, std::size_t index) {
  const auto fail = [&](const char* what) {
    throw Error(ErrorCode::kInternal, fmt::format("text {} of {} built in: {}", index, word(packed, 0), what));
  };
  if (index >= word(packed, 0)) fail("no such place");
  const std::size_t offset = word(packed, 1 + 2 * index);
  const std::size_t bytes = word(packed, 2 + 2 * index);
  if (offset > packed.size() || bytes > packed.size() - offset) fail("lies outside");
  const std::byte* const frame = packed.data() + offset;
  const unsigned long long size = ZSTD_getFrameContentSize(frame, bytes);
  if (size == ZSTD_CONTENTSIZE_ERROR || size == ZSTD_CONTENTSIZE_UNKNOWN) fail("has no size");
  std::string text(size, '\0');
  if (ZSTD_decompress(text.data(), text.size(), frame, bytes) != size) fail("does not unpack");
  return text;
}

}  // namespace metal_marlin
