// NVIDIA GPUs as a device: the shaders' PTX, compiled by the driver.
#pragma once

#include "backends/msl/device.h"

namespace metal_marlin::msl {

// Empty: there is a driver and a device, and kernels for it; else what is missing.
std::string why_no_cuda_device();
bool has_cuda_device();
// The first device, or that of METAL_MARLIN_CUDA_DEVICE. Commands are kept as a
// graph: committing again replays it. \throws Error (kUnsupported) when there is
// none of compute capability 8.0 or later.
std::unique_ptr<Device> make_cuda_device();

}  // namespace metal_marlin::msl
