#include "tool_calls/delimiter.h"

#include <algorithm>

namespace metal_marlin {

bool is_space_byte(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

std::string_view trim_space(std::string_view text) {
  while (!text.empty() && is_space_byte(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space_byte(text.back())) text.remove_suffix(1);
  return text;
}

std::size_t skip_space(std::string_view text, std::size_t at) {
  while (at < text.size() && is_space_byte(text[at])) ++at;
  return at;
}

std::size_t partial_end(std::string_view text, std::string_view delimiter) {
  for (std::size_t size = std::min(text.size(), delimiter.size() - 1); size > 0; --size) {
    if (text.ends_with(delimiter.substr(0, size))) return size;
  }
  return 0;
}

DelimiterMatch match_delimiter(std::string_view text, std::string_view delimiter) {
  delimiter = trim_space(delimiter);
  std::size_t at = 0;
  for (std::size_t i = 0; i < delimiter.size();) {
    if (is_space_byte(delimiter[i])) {
      i = skip_space(delimiter, i);
      at = skip_space(text, at);
      continue;
    }
    if (at == text.size()) return {.is_partial = true};
    if (text[at++] != delimiter[i++]) return {};
  }
  return {.is_whole = true, .size = at};
}

}  // namespace metal_marlin
