#include "backends/msl/devices.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "backends/msl/cuda/cuda_device.h"
#include "backends/msl/host/host_device.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {

std::vector<std::string> available_devices() {
  std::vector<std::string> names;
  if (has_cuda_device()) names.emplace_back("msl-cuda");
  names.emplace_back("msl-host");
  return names;
}

std::string resolve_device(const std::string& backend) {
  return backend == "msl" ? available_devices().front() : backend;
}

std::unique_ptr<Device> make_device(const std::string& backend) {
  const std::vector<std::string> names = available_devices();
  const std::string name = resolve_device(backend);
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("no backend {} here; there are cpu, {}", backend, fmt::join(names, ", ")));
  }
  return name == "msl-cuda" ? make_cuda_device() : make_host_device();
}

}  // namespace metal_marlin::msl
