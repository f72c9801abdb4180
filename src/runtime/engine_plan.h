// What an engine makes of its options and of free memory.
#pragma once

#include <functional>

#include "metal_marlin/engine.h"

namespace metal_marlin {

struct EngineMemory {
  std::size_t available = 0;   // bytes that are free
  std::size_t page_bytes = 0;  // of the cache, in all layers
  std::int64_t most_pages = INT32_MAX;
  std::function<std::size_t(int parallel)> workspace;  // bytes that steps of so many sequences work in
  bool apart = false;                                  // it is not the processor's
  std::size_t processor = 0;                           // bytes that are free there
};

// \throws Error (kInvalidArgument) naming the option, (kOutOfMemory) with the figures.
EnginePlan plan_engine(const ModelInfo& model, const EngineMemory& memory, const EngineOptions& options);

}  // namespace metal_marlin
