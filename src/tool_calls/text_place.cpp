#include "tool_calls/text_place.h"

namespace metal_marlin {

void TextPlace::begin_line() {
  mark_ = 0;
  marks_ = 0;
  in_head_ = true;
  is_fence_ = false;
  is_quote_ = false;
  in_code_ = false;
}

void TextPlace::pass(char c) {
  last_ = c;
  if (c == '\n') return begin_line();
  if (in_head_ && marks_ == 0 && (c == ' ' || c == '\t')) return;
  const bool is_mark = c == '`' || c == '~';
  if (in_head_ && is_mark && (marks_ == 0 || c == mark_)) {
    mark_ = c;
    if (++marks_ == 3 && (fence_ == 0 || fence_ == c)) {
      is_fence_ = true;
      fence_ = fence_ == 0 ? c : '\0';
    }
    in_code_ = c == '`' && marks_ == 1;
    return;
  }
  if (in_head_ && marks_ == 0 && c == '>') is_quote_ = true;
  in_head_ = false;
  if (c == '`' && !is_fence_) in_code_ = !in_code_;
}

bool TextPlace::is_plain() const {
  return fence_ == 0 && !is_fence_ && !is_quote_ && !in_code_ && last_ != '"' && last_ != '\'';
}

}  // namespace metal_marlin
