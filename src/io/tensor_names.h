// What weights are called in the files of the reference implementation, and what other files call them.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "io/dtype.h"

namespace metal_marlin {

inline constexpr const char* kEmbeddingWeight = "model.embed_tokens.weight";
inline constexpr const char* kHeadWeight = "lm_head.weight";
inline constexpr std::string_view kLayers = "model.layers.";

// "model.layers.N." of a weight in a layer; nothing of others.
std::string_view layer_of(std::string_view name);

// The name of a weight that was saved without the "model." of what is around it, or with one more, or within a model
// that has other parts too; of one that Mixtral's files call otherwise than most, what most call it.
std::string full_name(const std::string& name);

// The weights that a tensor of such a name is: itself, or, where it holds a projection of all experts ([experts, rows,
// columns], as transformers has them in memory), a matrix for each. \throws Error (kUnsupported) naming it and `where`.
std::vector<std::pair<std::string, DenseView>> expert_weights(const std::string& name, const DenseView& view,
                                                              const std::string& where);

}  // namespace metal_marlin
