// A grammar of rules that others than this folder's front ends made.
#pragma once

#include <memory>

#include "grammar/rules.h"
#include "metal_marlin/grammar.h"

namespace metal_marlin {

std::shared_ptr<const Grammar> make_grammar(Rules rules, ExpressionId root);

}  // namespace metal_marlin
