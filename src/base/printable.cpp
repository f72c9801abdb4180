#include "base/printable.h"

#include <fmt/format.h>

#include "base/unicode.h"

namespace metal_marlin {
namespace {

// Bytes of the character that begins the text; 0: it is none, or a control character not among those that stay.
std::size_t character_bytes(std::string_view text, std::string_view stay) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = at(0);
  if (first < 0x80) return (first < 0x20 && stay.find(text[0]) == std::string_view::npos) || first == 0x7F ? 0 : 1;
  const std::size_t length = first >= 0xC2 && first < 0xE0 ? 2 : first >= 0xE0 && first < 0xF0 ? 3 : 4;
  if (first < 0xC2 || first > 0xF4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if (!is_continuation(text[i])) return 0;
  }
  if (first == 0xC2 && at(1) < 0xA0) return 0;  // controls of eight bits
  return length;
}

std::string escaped(std::string_view text, std::string_view stay) {
  std::string out;
  while (!text.empty()) {
    const std::size_t length = character_bytes(text, stay);
    if (length == 0) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[0]));
      text.remove_prefix(1);
    } else {
      out += text.substr(0, length);
      text.remove_prefix(length);
    }
  }
  return out;
}

}  // namespace

std::string printable(std::string_view text) {
  return escaped(text, "\n\t");
}

std::string printable_line(std::string_view text) {
  return escaped(text, "");
}

}  // namespace metal_marlin
