// Whole models on a device that runs the Metal shaders: every op of a forward pass is
// a dispatch; tokens and page tables go in, logits come out.
#pragma once

#include "backends/backend.h"
#include "backends/msl/device.h"

namespace metal_marlin::msl {

// \param name by which the registry knows it
// \param pool used while loading only
std::unique_ptr<Backend> make_backend(std::string name, std::shared_ptr<Device> device,
                                      std::shared_ptr<ThreadPool> pool);

}  // namespace metal_marlin::msl
