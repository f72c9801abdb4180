// Apple GPUs, through metal-cpp. Built on macOS alone; elsewhere a test compiles it against
// declarations of what it uses (tests/backends/msl/metal_stub).
#pragma once

#include <filesystem>
#include <functional>

#include "backends/msl/device.h"

namespace metal_marlin::msl {

// Where the shaders come from.
struct MetalShaders {
  // Every shader in one library that Apple's compiler made; where there is none, each is
  // compiled from its text when it is first needed.
  std::filesystem::path library;
  std::function<std::string(std::string_view shader)> source;
};

bool has_metal_device();
// \throws Error (kUnsupported) where the GPU is older than Apple7, which has no simdgroup matrices.
std::unique_ptr<Device> make_metal_device(MetalShaders shaders);

}  // namespace metal_marlin::msl
