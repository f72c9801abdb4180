// Apple GPUs, through metal-cpp. Built on macOS alone; elsewhere a test compiles it against
// declarations of what it uses (tests/backends/msl/metal_stub).
#pragma once

#include <filesystem>

#include "backends/msl/device.h"

namespace metal_marlin::msl {

// Whether there is a GPU that this device takes.
bool has_metal_device();
// `library`: every shader in one that Apple's compiler made; where there is none, each is compiled
// from its text when it is first needed. \throws Error (kUnsupported) where the GPU is older than
// Apple7, which has no simdgroup matrices.
std::unique_ptr<Device> make_metal_device(const std::filesystem::path& library);

}  // namespace metal_marlin::msl
