// The containers that open_checkpoint chooses from.
#pragma once

#include "io/checkpoint.h"

namespace metal_marlin {

std::unique_ptr<Checkpoint> open_hf_checkpoint(const std::filesystem::path& folder,
                                               const CheckpointOptions& options);
std::unique_ptr<Checkpoint> open_gguf_checkpoint(const std::filesystem::path& file, const CheckpointOptions& options);

}  // namespace metal_marlin
