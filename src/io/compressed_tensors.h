// Folders in the schema of the compressed-tensors package.
#pragma once

#include "io/stored_weights.h"

namespace metal_marlin {

// The quantized weights that a quantization_config tells of, and the rotations of their inputs.
// \throws Error naming field, file or tensor.
std::vector<StoredWeight> compressed_weights(const SafetensorsFolder& folder, const JsonObject& quantization);

// A module whose codes lie in ".weight_packed" or ".weight", with its scales beside them. spec: its format and group.
// \throws Error naming file and tensor.
LoadedPack load_compressed(const SafetensorsFolder& folder, const std::string& module, const FormatSpec& spec);

}  // namespace metal_marlin
