// Which experts a token goes to, on this processor.
#pragma once

#include <cstdint>

#include "ops/plan.h"

namespace metal_marlin {

// Floats of scratch that route_token needs.
std::int64_t route_scratch_floats(const MoeOp& op);
// Chooses op.top_k experts and their weights from the router's logits. router_bias: [experts] or null.
void route_token(const MoeOp& op, const float* logits, const float* router_bias, float* scratch, std::int32_t* experts,
                 float* weights);

}  // namespace metal_marlin
