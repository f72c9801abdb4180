// The layouts of GPTQ checkpoints (AutoGPTQ, GPTQModel) and AWQ ones (AutoAWQ), where matrices lie
// turned round: `qweight` has inputs down and outputs across, `scales` [groups][outputs], `qzeros`
// the zeros of each, packed across. A weight is scale * (code - zero).
#pragma once

#include "io/stored_weights.h"

namespace metal_marlin {

// What a pattern's modules have instead of what stands for all.
using ModuleRule = std::pair<std::string, Json>;

// The weights of such a folder: the same numbers where groups are neighbours, else in f16. dynamic: the field of
// that name, in its order, for the first rule that matches counts. \throws Error naming field, file or tensor.
std::vector<StoredWeight> gptq_weights(const SafetensorsFolder& folder, const JsonObject& quantization,
                                       const std::vector<ModuleRule>& dynamic);
std::vector<StoredWeight> awq_weights(const SafetensorsFolder& folder, const JsonObject& quantization);

}  // namespace metal_marlin
