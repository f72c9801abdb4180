// That a model uses all of its weights.
#pragma once

#include "io/checkpoint.h"
#include "ops/plan.h"

namespace metal_marlin {

// \throws Error (kUnsupported) naming a tensor of one of the plan's modules, such as a bias or scales, that the plan
// does not use: the results would not be the model's.
void require_consumed(const Checkpoint& checkpoint, const Plan& plan);

}  // namespace metal_marlin
