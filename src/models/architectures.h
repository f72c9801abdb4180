// Forward passes, one function an architecture family.
#pragma once

#include "models/config.h"
#include "ops/plan.h"

namespace metal_marlin {

// The plan of a model. Weight names are those of its Hugging Face checkpoint.
Plan build_plan(const ModelConfig& config);

// Whether a weight is an embedding or output head (quantized to int8 by
// default), or a linear layer inside the blocks.
bool is_embedding_or_head(const std::string& weight);

}  // namespace metal_marlin
