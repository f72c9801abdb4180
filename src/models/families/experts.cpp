#include "models/families/experts.h"

#include <fmt/format.h>

namespace metal_marlin {

void parse_expert_counts(const JsonObject& config, const char* count, const MoeConfig& usual, MoeConfig& moe) {
  moe.experts = config.bounded_or(count, kExpertBounds, usual.experts);
  moe.top_k = config.bounded_or("num_experts_per_tok", {1, moe.experts}, usual.top_k);
  if (moe.top_k > moe.experts)
    config.wrong("num_experts_per_tok",
                 fmt::format("no more than {} experts, as it is {} where it is left out", moe.experts, moe.top_k));
}

void parse_experts(const JsonObject& config, const char* count, const MoeConfig& usual, MoeConfig& moe) {
  parse_expert_counts(config, count, usual, moe);
  moe.intermediate = config.bounded_or("moe_intermediate_size", kDimensionBounds, usual.intermediate);
}

}  // namespace metal_marlin
