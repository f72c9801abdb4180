// What generation_config.json says of how a model's answers are drawn.
#pragma once

#include <string>

#include "io/json.h"
#include "metal_marlin/sampler.h"

namespace metal_marlin {

// temperature, top_k, top_p, min_p and repetition_penalty; where it does not say (`generation` may be null), nothing
// is restricted and the temperature is 1. \throws Error naming the field.
SamplerOptions parse_generation_config(const Json& generation, const std::string& where);

}  // namespace metal_marlin
