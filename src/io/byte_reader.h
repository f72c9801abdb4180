// Little-endian values from bytes of a file, none of them read beyond its end.
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "metal_marlin/error.h"

namespace metal_marlin {

class ByteReader {
 public:
  // The bytes of a file or of a part of it, and what they are called in errors.
  ByteReader(std::span<const std::byte> bytes, std::string context) : bytes_(bytes), context_(std::move(context)) {}

  void set_context(std::string context) { context_ = std::move(context); }
  [[nodiscard]] const std::string& context() const { return context_; }
  [[nodiscard]] std::size_t position() const { return at_; }
  [[nodiscard]] std::size_t remaining() const { return bytes_.size() - at_; }

  [[noreturn]] void fail(const std::string& what, ErrorCode code = ErrorCode::kCorruptFile) const {
    throw Error(code, fmt::format("{}: {}", context_, what));
  }

  std::span<const std::byte> take(std::uint64_t n) {
    if (n > remaining()) fail(fmt::format("needs {} bytes at offset {}, there are {} left", n, at_, remaining()));
    const auto part = bytes_.subspan(at_, n);
    at_ += n;
    return part;
  }
  template <typename T>
  T read() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::string_view text(std::uint64_t n) {
    const auto part = take(n);
    return {reinterpret_cast<const char*>(part.data()), part.size()};
  }
  std::string_view zero_terminated() {
    const auto* const begin = reinterpret_cast<const char*>(bytes_.data()) + at_;
    const auto* const end = static_cast<const char*>(std::memchr(begin, 0, remaining()));
    if (end == nullptr) fail("a name has no zero at its end");
    at_ += static_cast<std::size_t>(end - begin) + 1;
    return {begin, static_cast<std::size_t>(end - begin)};
  }
  // What was read since a position.
  [[nodiscard]] std::span<const std::byte> since(std::size_t position) const {
    return bytes_.subspan(position, at_ - position);
  }
  void at_end() const {
    if (remaining() != 0) fail(fmt::format("{} bytes more than expected", remaining()));
  }

 private:
  std::span<const std::byte> bytes_;
  std::string context_;
  std::size_t at_ = 0;
};

}  // namespace metal_marlin
