// Texts of two expressions at once.
#pragma once

#include "grammar/rules.h"

namespace metal_marlin {

// What both match, neither of which calls rules. \throws Error (kInvalidArgument) past a limit.
ExpressionId intersection(Rules& rules, ExpressionId a, ExpressionId b);

}  // namespace metal_marlin
