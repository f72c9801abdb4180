// The layouts of GPTQ checkpoints (AutoGPTQ, GPTQModel) and AWQ ones (AutoAWQ), where matrices lie
// turned round: `qweight` has inputs down and outputs across, `scales` [groups][outputs], `qzeros`
// the zeros of each, packed across. A weight is scale * (code - zero).
#pragma once

#include "io/packed_tensors.h"

namespace metal_marlin {

// Shape and format of a module, from the headers. \throws Error naming file and tensor.
PackedModule column_packed_module(const SafetensorsFolder& folder, PackScheme scheme, const std::string& module,
                                  const PackedModule& described);
// The module in our layout, the same numbers where groups are neighbours (group_order). \throws Error
// (kUnsupported) where zeros are none that the format holds.
LoadedPack load_column_packed(const SafetensorsFolder& folder, PackScheme scheme, const std::string& module,
                              const PackedModule& described);

}  // namespace metal_marlin
