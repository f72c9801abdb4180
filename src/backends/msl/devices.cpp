#include "backends/msl/devices.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "backends/msl/cuda/cuda_device.h"
#include "backends/msl/host/host_device.h"
#include "metal_marlin/error.h"
#if METAL_MARLIN_METAL
#include "backends/msl/metal/metal_device.h"
#include "runtime/program_path.h"
#endif

namespace metal_marlin::msl {
namespace {

#if METAL_MARLIN_METAL
// The library lies beside the program, or where it is installed.
std::unique_ptr<Device> make_metal() {
  const std::filesystem::path folder = program_path().parent_path();
  const std::filesystem::path beside = folder / "metal_marlin.metallib";
  return make_metal_device(std::filesystem::exists(beside) ? beside
                                                           : folder / "../share/metal-marlin/metal_marlin.metallib");
}
#endif

}  // namespace

std::vector<std::string> available_devices() {
  std::vector<std::string> names;
#if METAL_MARLIN_METAL
  if (has_metal_device()) names.emplace_back("msl-metal");
#endif
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
  if (name == "msl-host-debug") {
    HostDeviceOptions options;
    options.debug = true;
    return make_host_device(options);
  }
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    throw Error(ErrorCode::kNotFound,
                fmt::format("no backend {} here; there are cpu, {}, msl-host-debug", backend, fmt::join(names, ", ")));
  }
#if METAL_MARLIN_METAL
  if (name == "msl-metal") return make_metal();
#endif
  return name == "msl-cuda" ? make_cuda_device() : make_host_device();
}

}  // namespace metal_marlin::msl
