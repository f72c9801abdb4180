// Character classes of Oniguruma: sets that PCRE2's brackets can hold, and those that need lookaheads.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace metal_marlin {

// A set of characters as PCRE2 spells it.
struct CharacterSet {
  std::string items;                // what stands between brackets
  std::vector<std::string> others;  // expressions that match one character each
  bool negated = false;
  bool cased = false;  // it may hold one case of a letter and lack the other

  // An expression that matches one character of the set.
  [[nodiscard]] std::string expression() const;
  // Makes this the union with `other`; this is not negated.
  void unite(const CharacterSet& other);
};

// \d, \s, \h, \w and their complements.
CharacterSet shorthand_set(char letter, bool in_brackets);
// [:name:]; false when there is no such name.
bool posix_set(std::string_view name, CharacterSet& set);
// \p{name}; false when PCRE2 has no such property.
bool property_set(std::string_view name, CharacterSet& set);
// What becomes of a named set within brackets under (?i), where the cases of letters are one.
CharacterSet without_case(CharacterSet set);

}  // namespace metal_marlin
