// Forward passes, one function an architecture family.
#pragma once

#include "models/config.h"
#include "ops/plan.h"

namespace metal_marlin {

// The plan of a model. Weight names are those of its Hugging Face checkpoint.
Plan build_plan(const ModelConfig& config);

}  // namespace metal_marlin
