// A checkpoint with an adapter in its weights.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "io/checkpoint.h"
#include "ops/adapter.h"
#include "ops/plan.h"

namespace metal_marlin {

// Weights that the adapter changes are w + scale b a, summed in double, in f32. \throws Error (kUnsupported) where the
// adapter is for the embedding or the head, which are one weight: merged, it would change both.
std::unique_ptr<Checkpoint> merge_adapter(std::unique_ptr<Checkpoint> below, Adapter adapter, const Plan& plan);

}  // namespace metal_marlin
