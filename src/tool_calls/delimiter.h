// Finding delimiters in a text that is still to go on.
#pragma once

#include <cstddef>
#include <string_view>

namespace metal_marlin {

std::string_view trim_space(std::string_view text);
bool is_space_byte(char c);
// Where what is no white space begins, from `at`.
std::size_t skip_space(std::string_view text, std::size_t at);
// How much of the text's end may be the delimiter's beginning.
std::size_t partial_end(std::string_view text, std::string_view delimiter);

struct DelimiterMatch {
  bool is_whole = false;
  bool is_partial = false;  // the text ends within it
  std::size_t size = 0;     // of a whole one
};
// Whether a text begins with a delimiter, white space at whose ends counts for nothing, and of which there may be any
// amount where it has some.
DelimiterMatch match_delimiter(std::string_view text, std::string_view delimiter);

}  // namespace metal_marlin
