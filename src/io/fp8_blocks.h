// FP8 weights in blocks of rows and columns that share a scale.
#pragma once

#include "io/stored_weights.h"

namespace metal_marlin {

// module's .weight in E4M3 with the scales of its blocks, or one for all, under another name.
// \throws Error naming file and tensor.
StoredWeight fp8_block_weight(const SafetensorsFolder& folder, const std::string& module, const std::string& scale_name,
                              Shape block);
// A field that holds the rows and columns of a block. \throws Error naming it.
Shape block_shape(const JsonObject& json, const char* key);

}  // namespace metal_marlin
