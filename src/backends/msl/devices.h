// Which devices of the msl backend there are here.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backends/msl/device.h"

namespace metal_marlin::msl {

// By the names that backends bear: "msl-metal" or "msl-cuda" where there is such a GPU, "msl-host"; best first.
std::vector<std::string> available_devices();
// The device that `msl` stands for here, the best; other names are what they are.
std::string resolve_device(const std::string& backend);
// \param backend one of these, "msl" for the first, or "msl-host-debug": the host executor with every detector.
// \throws Error (kNotFound) naming those that there are.
std::unique_ptr<Device> make_device(const std::string& backend);

}  // namespace metal_marlin::msl
