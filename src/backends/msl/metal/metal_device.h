// Apple GPUs, through metal-cpp. Built on macOS alone; on Linux the tests build it over a device that
// records what it is told, holds it to Metal's rules and runs it on the host (tests/backends/msl/metal_stub).
#pragma once

#include <filesystem>
#include <string>

#include "backends/msl/device.h"
#include "backends/msl/metal/work_limits.h"

namespace metal_marlin::msl {

struct MetalOptions {
  // Every shader in one file that Apple's compiler made; where there is none, each is compiled from its
  // text when it is first needed.
  std::filesystem::path library;
  metal::WorkLimits limits;
  bool labels = false;  // for Metal's debugger
};

// Why there is no GPU here that this device takes; empty: there is one.
std::string why_no_metal();
// \throws Error (kNotFound) with that reason.
std::unique_ptr<Device> make_metal_device(const MetalOptions& options);

}  // namespace metal_marlin::msl
