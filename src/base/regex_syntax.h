// Oniguruma's regular expressions (Ruby syntax), in which tokenizer.json files are written, as PCRE2 spells them.
#pragma once

#include <string>
#include <string_view>

namespace metal_marlin {

// The pattern for PCRE2 in UTF, UCP and multiline mode with LF as the newline.
// \throws Error (kUnsupported) naming `where`, the construct that PCRE2 cannot say, and its place.
std::string translate_regex(std::string_view pattern, const std::string& where);

// Whether PCRE2 compiles this in the mode above.
bool pcre2_accepts(std::string_view pattern);
// Whether a part of a pattern may match the empty text, as far as PCRE2 can tell of it alone.
bool pcre2_may_match_nothing(std::string_view pattern);

}  // namespace metal_marlin
