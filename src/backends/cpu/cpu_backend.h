// The native CPU backend.
#pragma once

#include "backends/backend.h"
#include "backends/cpu/kernels.h"

namespace metal_marlin::cpu {

std::unique_ptr<Backend> make_backend(std::shared_ptr<ThreadPool> pool, const Kernels& kernels);

}  // namespace metal_marlin::cpu
