// Split patterns: PCRE2 in Unicode mode, read as the Oniguruma dialect that
// tokenizer.json files are written in.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace metal_marlin {

class Regex {
 public:
  // \throws Error (kUnsupported) naming `where` and the position of the fault.
  Regex(std::string_view pattern, const std::string& where);
  // A pattern that matches `text` literally.
  static Regex literal(std::string_view text, const std::string& where);

  // Calls visit(begin, end) for each non-empty match from left to right; `text`
  // must be valid UTF-8.
  template <typename Visit>
  void for_each_match(std::string_view text, const Visit& visit) const {
    std::size_t begin = 0;
    std::size_t end = 0;
    for (std::size_t at = 0; find(text, at, begin, end); at = end) {
      if (end == begin) {  // step over one character
        if (begin >= text.size()) return;
        do ++end;
        while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80);
        continue;
      }
      visit(begin, end);
    }
  }
  // Whether the pattern matches anywhere.
  [[nodiscard]] bool search(std::string_view text) const;
  [[nodiscard]] std::string replace_all(std::string_view text, std::string_view content) const;

 private:
  bool find(std::string_view text, std::size_t from, std::size_t& begin, std::size_t& end) const;
  struct Compiled;
  std::shared_ptr<const Compiled> compiled_;
};

// The patterns of a flag. \throws Error (kUnsupported) naming the flag and the position of the fault.
std::vector<Regex> compile_patterns(const std::vector<std::string>& patterns, const std::string& flag);
// Whether one of them matches anywhere.
bool any_match(const std::vector<Regex>& patterns, std::string_view text);

}  // namespace metal_marlin
