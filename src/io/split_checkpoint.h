// Projections that a checkpoint holds as one matrix, as if each were stored.
#pragma once

#include <memory>

#include "io/checkpoint.h"

namespace metal_marlin {

// The checkpoint itself, where nothing is stored together; else one that has q_proj, k_proj and v_proj for qkv_proj,
// and gate_proj and up_proj for gate_up_proj: rows of the same bytes. \throws Error (kCorruptFile) naming a tensor
// whose rows cannot be theirs.
std::unique_ptr<Checkpoint> split_projections(std::unique_ptr<Checkpoint> checkpoint);

}  // namespace metal_marlin
