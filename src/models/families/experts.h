// Fields that mixtures of experts have in common.
#pragma once

#include "models/families/family.h"

namespace metal_marlin {

// usual: what is left out.
void parse_experts(const JsonObject& config, const char* count, const MoeConfig& usual, MoeConfig& moe);

}  // namespace metal_marlin
