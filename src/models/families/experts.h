// Fields that mixtures of experts have in common.
#pragma once

#include "models/families/family.h"

namespace metal_marlin {

// How many there are, and how many see a token. usual: here and below, what is left out.
void parse_expert_counts(const JsonObject& config, const char* count, const MoeConfig& usual, MoeConfig& moe);
// The same, and their width, in moe_intermediate_size.
void parse_experts(const JsonObject& config, const char* count, const MoeConfig& usual, MoeConfig& moe);

}  // namespace metal_marlin
