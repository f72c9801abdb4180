// JSON Schema (draft 2020-12) as rules: the JSON texts that it says are valid, members in the order of its properties.
#pragma once

#include <string>
#include <string_view>

#include "grammar/rules.h"

namespace metal_marlin {

// \throws Error (kInvalidArgument) naming `where`, the place in the schema and the keyword that is wrong or that a
// grammar cannot say.
ExpressionId parse_schema(Rules& rules, std::string_view schema, const std::string& where);

}  // namespace metal_marlin
