// The forward pass that a model's traits describe.
#pragma once

#include "models/config.h"
#include "ops/plan.h"

namespace metal_marlin {

// The plan of a model. Weight names are those of its Hugging Face checkpoint.
// \param shows_hidden it has a kHiddenOutput too: of every token, what the head multiplies
Plan build_plan(const ModelConfig& config, bool shows_hidden = false);

// Of one of its layers for the next tokens. A batch's tokens are those that follow the ones whose hidden states are its
// input; logits are of what comes after them. Its kHiddenOutput, of selected tokens, is the input for the next but one.
Plan build_prediction_plan(const ModelConfig& config, std::int64_t index = 0);

}  // namespace metal_marlin
