// Rotations as GGUF's keys and tensors tell of them.
#pragma once

#include "io/gguf_keys.h"
#include "io/json.h"

namespace metal_marlin {

// rope_parameters of config.json. rotated: elements of a head that are rotated, of so many.
Json gguf_rope_parameters(const GgufKeys& keys, std::int64_t rotated, std::int64_t head_dim);

}  // namespace metal_marlin
