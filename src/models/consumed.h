// That a model uses all of its weights.
#pragma once

#include <functional>
#include <string>

#include "io/checkpoint.h"
#include "ops/plan.h"

namespace metal_marlin {

// \throws Error (kUnsupported) naming a tensor of one of the plan's modules, such as a bias or scales, that the plan
// does not use: the results would not be the model's. Of a GGUF file, any other of the plan's layers too; of others,
// `notice` is told of those, which the reference implementation leaves out as well.
void require_consumed(const Checkpoint& checkpoint, const Plan& plan,
                      const std::function<void(const std::string&)>& notice = {});

}  // namespace metal_marlin
