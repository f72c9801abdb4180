// U+2581, which stands for a space in tokens of SentencePiece.
#pragma once

#include <string_view>

namespace metal_marlin {

inline constexpr std::string_view kWordMark = "\xE2\x96\x81";

// Whether it holds a mark after another character. Where no token does, no merge crosses the beginning of a word, and
// text may be cut there.
bool mark_inside(std::string_view token);

// Calls `on_word` for the text's parts, each but the first beginning with a mark, or several.
template <typename OnWord>
void split_at_marks(std::string_view text, const OnWord& on_word) {
  std::size_t begin = 0;
  for (std::size_t at = text.find(kWordMark, 1); at != std::string_view::npos;
       at = text.find(kWordMark, at + kWordMark.size())) {
    if (text.substr(0, at).ends_with(kWordMark)) continue;  // inside a run of spaces
    on_word(text.substr(begin, at - begin));
    begin = at;
  }
  on_word(text.substr(begin));
}

}  // namespace metal_marlin
