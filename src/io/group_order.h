// Groups of inputs that are no neighbours ("activation order"), as GPTQ's desc_act and compressed-tensors' actorder
// make them.
#pragma once

#include "io/stored_weights.h"

namespace metal_marlin {

// A packed weight, or where the entry `order` ([columns] I32) tells that groups are no neighbours, one that becomes
// f16. \throws Error naming the entry when it is no list of groups.
StoredWeight grouped_weight(const SafetensorsFolder& folder, const std::string& order, const std::string& module,
                            const FormatSpec& spec, std::int64_t rows, std::int64_t cols,
                            std::vector<std::string> parts, std::function<LoadedPack()> load);

}  // namespace metal_marlin
