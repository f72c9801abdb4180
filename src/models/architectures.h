// Forward passes, one function an architecture family.
#pragma once

#include <optional>

#include "models/config.h"
#include "ops/plan.h"

namespace metal_marlin {

// The plan of a model. Weight names are those of its Hugging Face checkpoint.
Plan build_plan(const ModelConfig& config);

// What a weight is part of.
enum class WeightClass : std::uint8_t { kEmbedding, kHead, kAttention, kFeedForward, kSharedExpert, kExpert, kOther };
WeightClass weight_class(const std::string& weight);
// The embedding or the output head, not a linear layer inside the blocks.
bool is_embedding_or_head(const std::string& weight);

// A routed expert's place; nothing for other weights.
struct ExpertPlace {
  std::int64_t layer;
  std::int64_t expert;
};
std::optional<ExpertPlace> expert_place(const std::string& weight);

}  // namespace metal_marlin
