#include "io/gguf_byte_order.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "io/gguf.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// Walks a file's header and turns every number round; counts and lengths are checked before they are used.
class HeaderTurner {
 public:
  HeaderTurner(std::span<std::byte> bytes, const std::string& where) : bytes_(bytes), where_(where) {}

  void run() {
    take(4);
    number<std::uint32_t>();
    const auto tensors = number<std::uint64_t>();
    const auto values = number<std::uint64_t>();
    for (std::uint64_t i = 0; i < values; ++i) {
      string();
      value(number<std::uint32_t>(), 0);
    }
    for (std::uint64_t i = 0; i < tensors; ++i) {
      string();
      const auto dimensions = number<std::uint32_t>();
      for (std::uint32_t d = 0; d < dimensions; ++d) number<std::uint64_t>();
      number<std::uint32_t>();
      number<std::uint64_t>();
    }
  }

 private:
  std::span<std::byte> take(std::uint64_t n) {
    if (n > bytes_.size() - at_)
      throw Error(ErrorCode::kCorruptFile,
                  fmt::format("{}: big-endian header: needs {} bytes at offset {}, the file has "
                              "{} left",
                              where_, n, at_, bytes_.size() - at_));
    const auto part = bytes_.subspan(at_, n);
    at_ += n;
    return part;
  }
  void turn(std::uint64_t size) {
    const auto part = take(size);
    std::reverse(part.begin(), part.end());
  }
  template <typename T>
  T number() {
    const std::size_t at = at_;
    turn(sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + at, sizeof(T));
    return value;
  }
  void string() { take(number<std::uint64_t>()); }

  void value(std::uint32_t type, int depth) {
    const std::size_t size = gguf_value_bytes(type);
    if (size > 0) return turn(size);
    if (type == kGgufString) return string();
    if (type != kGgufArray || depth > kMaxDepth)
      throw Error(ErrorCode::kCorruptFile, fmt::format("{}: big-endian header: unknown value type {}", where_, type));
    const auto element = number<std::uint32_t>();
    const auto count = number<std::uint64_t>();
    for (std::uint64_t i = 0; i < count; ++i) value(element, depth + 1);
  }

  static constexpr int kMaxDepth = 4;
  std::span<std::byte> bytes_;
  const std::string& where_;
  std::size_t at_ = 0;
};

// Numbers of two bytes in a block of a type, by their offsets; the rest are bytes.
std::optional<std::vector<std::size_t>> halves_of(GgufType type) {
  using Offsets = std::vector<std::size_t>;
  switch (type) {
    case GgufType::kQ4_0:
    case GgufType::kQ8_0:
    case GgufType::kIq4Nl: return Offsets{0};
    case GgufType::kQ4_1:
    case GgufType::kQ4K:
    case GgufType::kQ5K:
    case GgufType::kIq4Xs: return Offsets{0, 2};
    case GgufType::kQ2K: return Offsets{80, 82};
    case GgufType::kQ3K: return Offsets{108};
    case GgufType::kQ6K: return Offsets{208};
    case GgufType::kMxfp4: return Offsets{};
    default: return std::nullopt;
  }
}

void turn_tensor(const GgufTensor& tensor, std::span<std::byte> bytes, const std::string& where) {
  const GgufTypeInfo& info = gguf_type_info(tensor.type);
  const auto size = static_cast<std::size_t>(info.block_bytes);
  const auto halves = halves_of(tensor.type);
  if (!halves && info.block != 1)
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: type {} in a big-endian file is not one that we read", where, info.name));
  for (std::size_t at = 0; at < bytes.size(); at += size) {
    if (!halves) {
      std::reverse(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                   bytes.begin() + static_cast<std::ptrdiff_t>(at + size));
      continue;
    }
    for (const std::size_t half : *halves) std::swap(bytes[at + half], bytes[at + half + 1]);
  }
}

}  // namespace

bool is_big_endian_gguf(std::span<const std::byte> bytes) {
  if (bytes.size() < 8 || std::memcmp(bytes.data(), "GGUF", 4) != 0) return false;
  return bytes[4] == std::byte{0} && bytes[5] == std::byte{0} && bytes[6] == std::byte{0} && bytes[7] != std::byte{0};
}

std::vector<std::byte> little_endian_gguf(std::span<const std::byte> bytes, const std::string& where) {
  std::vector<std::byte> out(bytes.begin(), bytes.end());
  HeaderTurner(out, where).run();
  const Gguf parsed = parse_gguf(out, where);
  for (const auto& [name, tensor] : parsed.tensors) {
    const auto offset = static_cast<std::size_t>(tensor.bytes.data() - out.data());
    turn_tensor(tensor, std::span(out).subspan(tensor.bytes.empty() ? 0 : offset, tensor.bytes.size()),
                fmt::format("{}: tensor {}", where, name));
  }
  return out;
}

}  // namespace metal_marlin
