#include "tokenizer/precompiled.h"

#include <fmt/format.h>

#include <cstring>

#include "base/unicode.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// False when the text is not base64.
bool decode_base64(std::string_view text, std::string& bytes) {
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  while (text.ends_with('=')) text.remove_suffix(1);
  std::uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const std::size_t value = kAlphabet.find(c);
    if (value == std::string_view::npos) return false;
    bits = bits << 6 | static_cast<std::uint32_t>(value);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>(bits >> count & 0xFF);
  }
  return true;
}

// The fields of a double array's unit.
bool has_leaf(std::uint32_t unit) {
  return (unit >> 8 & 1) != 0;
}
std::uint32_t value(std::uint32_t unit) {
  return unit & 0x7FFFFFFF;
}
std::uint32_t label(std::uint32_t unit) {
  return unit & 0x800000FF;
}
std::uint32_t offset(std::uint32_t unit) {
  return unit >> 10 << ((unit & 1U << 9) >> 6);
}

}  // namespace

PrecompiledMap::PrecompiledMap(const std::string& text, const std::string& where) {
  std::string bytes;
  std::uint32_t size = 0;
  const bool decoded = decode_base64(text, bytes) && bytes.size() >= sizeof(size);
  if (decoded) std::memcpy(&size, bytes.data(), sizeof(size));
  if (!decoded || size % 4 != 0 || size == 0 || size > bytes.size() - sizeof(size)) {
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: field precompiled_charsmap is not base64 of a trie and its texts", where));
  }
  trie_.resize(size / 4);
  std::memcpy(trie_.data(), bytes.data() + sizeof(size), size);
  texts_ = bytes.substr(sizeof(size) + size);
  if (!is_valid_utf8(texts_)) {
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: field precompiled_charsmap: texts are not UTF-8", where));
  }
}

std::optional<std::string_view> PrecompiledMap::find(std::string_view part) const {
  std::size_t node = offset(trie_[0]);
  for (const char c : part) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte == 0) break;
    node ^= byte;
    if (node >= trie_.size() || label(trie_[node]) != byte) break;
    const std::uint32_t unit = trie_[node];
    node ^= offset(unit);
    if (!has_leaf(unit)) continue;
    if (node >= trie_.size() || value(trie_[node]) > texts_.size()) break;
    const std::string_view found = std::string_view(texts_).substr(value(trie_[node]));
    // A place within a character is none of a map's.
    if (!found.empty() && is_continuation(found.front())) break;
    return found.substr(0, found.find('\0'));
  }
  return std::nullopt;
}

}  // namespace metal_marlin
