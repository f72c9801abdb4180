#include "tokenizer/word_marks.h"

namespace metal_marlin {

bool mark_inside(std::string_view token) {
  std::size_t at = token.find(kWordMark, 1);
  while (at != std::string_view::npos && token.substr(0, at).ends_with(kWordMark)) at = token.find(kWordMark, at + 1);
  return at != std::string_view::npos;
}

}  // namespace metal_marlin
