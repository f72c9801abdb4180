// Whole models on a device that runs the Metal shaders: every op of a forward pass is
// a dispatch; tokens and page tables go in, logits come out.
#pragma once

#include "backends/backend.h"
#include "backends/msl/device.h"

namespace metal_marlin {
class ThreadPool;
}

namespace metal_marlin::msl {

struct PrepareOptions {
  Activations activations = Activations::kInt8;  // kInt8: f16 or bf16, by the weights
  LoadProgress progress;
};

// Loads the plan's weights onto the device. The pool is used while loading only.
// \throws Error naming weight or op.
std::shared_ptr<const PreparedModel> prepare(const Plan& plan, const Checkpoint& checkpoint,
                                             std::shared_ptr<Device> device, ThreadPool& pool,
                                             const PrepareOptions& options);

}  // namespace metal_marlin::msl
