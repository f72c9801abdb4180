// The native CPU backend.
#pragma once

#include "backends/backend.h"
#include "backends/cpu/kernels.h"

namespace metal_marlin {
class ThreadPool;
}

namespace metal_marlin::cpu {

struct PrepareOptions {
  Activations activations = Activations::kInt8;
  const Kernels* kernels = nullptr;  // null: the best available
  LoadProgress progress;
};

// Loads and repacks the plan's weights and fuses its ops. The pool must outlive
// the model. \throws Error naming weight or op.
std::shared_ptr<const PreparedModel> prepare(const Plan& plan, const Checkpoint& checkpoint, ThreadPool& pool,
                                             const PrepareOptions& options);

// Bytes that prepare() will hold for weights, and a runner for its limits.
std::size_t estimate_weight_bytes(const Plan& plan, const Checkpoint& checkpoint);
std::size_t estimate_cache_bytes(const Plan& plan, int pages, CacheType cache);

}  // namespace metal_marlin::cpu
