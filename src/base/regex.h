// The patterns of tokenizer.json files: PCRE2 executes what regex_syntax.h translates.
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

  struct Match {
    std::size_t begin = 0;
    std::size_t end = 0;
  };
  // All matches from left to right, empty ones too unless they touch the one before; `text` must be valid UTF-8.
  // \throws Error (kUnsupported) when a search takes too many steps or too much memory.
  [[nodiscard]] std::vector<Match> matches(std::string_view text) const;
  // Whether the pattern matches anywhere.
  [[nodiscard]] bool search(std::string_view text) const;
  // In an empty text nothing is replaced, as the tokenizers library has it.
  [[nodiscard]] std::string replace_all(std::string_view text, std::string_view content) const;

 private:
  bool find(std::string_view text, std::size_t from, Match& match) const;
  struct Compiled;
  std::shared_ptr<const Compiled> compiled_;
};

// The patterns of a flag. \throws Error (kUnsupported) naming the flag and the position of the fault.
std::vector<Regex> compile_patterns(const std::vector<std::string>& patterns, const std::string& flag);
// Whether one of them matches anywhere.
bool any_match(const std::vector<Regex>& patterns, std::string_view text);

}  // namespace metal_marlin
