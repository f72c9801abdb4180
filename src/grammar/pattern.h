// Regular expressions as expressions of rules: ECMA-262's in Unicode mode, as JSON Schema has them, without what a
// grammar cannot say. base/regex_syntax is of no use here: it spells patterns anew for PCRE2, and makes no tree.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "grammar/rules.h"

namespace metal_marlin {

struct PatternOptions {
  // Found anywhere in a text, but where ^ and $ say otherwise; else the whole text.
  bool search = false;
  // How one character of a set is written; none: as it is.
  std::function<ExpressionId(const Characters&)> spell;
};

// \throws Error (kInvalidArgument) naming `where`, the construct that is wrong or cannot be said, and its place.
ExpressionId parse_pattern(Rules& rules, std::string_view pattern, const std::string& where,
                           const PatternOptions& options = {});

}  // namespace metal_marlin
