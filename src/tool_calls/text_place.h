// Where in a text, as Markdown reads it, one stands: what is quoted there is no call.
#pragma once

#include <string_view>

namespace metal_marlin {

class TextPlace {
 public:
  void pass(char c);
  // Neither in a block or span of code, nor in a quotation.
  [[nodiscard]] bool is_plain() const;

 private:
  void begin_line();

  char fence_ = 0;  // of the block of code that is open
  char last_ = 0;
  char mark_ = 0;          // that the line began with
  int marks_ = 0;          // how often
  bool in_head_ = true;    // only white space and marks so far
  bool is_fence_ = false;  // the line opens or closes a block
  bool is_quote_ = false;
  bool in_code_ = false;
};

}  // namespace metal_marlin
