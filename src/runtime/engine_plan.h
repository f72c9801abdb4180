// What an engine makes of its options and of free memory.
#pragma once

#include "metal_marlin/engine.h"

namespace metal_marlin {

struct EngineMemory {
  std::size_t available = 0;   // bytes that are free
  std::size_t page_bytes = 0;  // of the cache, in all layers
};

// \throws Error (kInvalidArgument) naming the option, (kOutOfMemory) with the figures.
EnginePlan plan_engine(const ModelInfo& model, const EngineMemory& memory, const EngineOptions& options);

// Most rows of logits in a pass of an engine's steps.
int engine_logits_rows(int parallel);

}  // namespace metal_marlin
