// Grammars in GBNF, the notation of llama.cpp.
#pragma once

#include <string>
#include <string_view>

#include "grammar/rules.h"

namespace metal_marlin {

// \throws Error (kInvalidArgument) naming `where` and the line.
Rules parse_gbnf(std::string_view text, const std::string& where);

}  // namespace metal_marlin
