#include "backends/msl/devices.h"

#include <fmt/ranges.h>

#include <array>
#include <cstdlib>
#include <map>

#include "backends/msl/cuda/cuda_device.h"
#include "backends/msl/host/host_device.h"
#include "metal_marlin/error.h"
#if METAL_MARLIN_METAL
#include "backends/msl/metal/metal_device.h"
#include "base/program_path.h"
#endif

namespace metal_marlin::msl {
namespace {

using MakeDevice = std::function<std::unique_ptr<Device>()>;

std::map<std::string, MakeDevice>& added_devices() {
  static std::map<std::string, MakeDevice> devices;
  return devices;
}

#if METAL_MARLIN_METAL
// Whether a variable of Apple's asks for Metal's debugger.
bool asked(const char* variable) {
  const char* const value = std::getenv(variable);
  return value != nullptr && std::string_view(value) != "0";
}

// The library lies beside the program, or where it is installed. The debugger is told the kernels' names.
std::unique_ptr<Device> make_metal() {
  const std::filesystem::path folder = program_path().parent_path();
  MetalOptions options;
  options.library = folder / "metal_marlin.metallib";
  if (!std::filesystem::exists(options.library))
    options.library = folder / "../share/metal-marlin/metal_marlin.metallib";
  options.labels = asked("MTL_DEBUG_LAYER") || asked("MTL_CAPTURE_ENABLED");
  return make_metal_device(options);
}
#else
std::string why_no_metal() {
  return "this program is built without Metal, which is macOS's";
}
#endif

// Empty: there is one.
std::string why_not(const std::string& device) {
  if (device == "msl-metal") return why_no_metal();
  if (device == "msl-cuda") return why_no_cuda_device();
  return device.starts_with("msl-host") ? why_no_host_device() : "";
}

constexpr std::array kGpus = {"msl-metal", "msl-cuda"};

[[noreturn]] void refuse(const std::string& backend) {
  const std::string reason = why_not(backend);
  throw Error(ErrorCode::kNotFound,
              fmt::format("no backend {} here{}{}; there are cpu, {}, msl-host-debug", backend,
                          reason.empty() ? "" : ": ", reason, fmt::join(available_devices(), ", ")));
}

}  // namespace

std::vector<std::string> available_devices() {
  std::vector<std::string> names;
  for (const char* const gpu : kGpus) {
    if (why_not(gpu).empty()) names.emplace_back(gpu);
  }
  if (why_not("msl-host").empty()) names.emplace_back("msl-host");
  return names;
}

std::vector<GpuReport> gpu_reports() {
  std::vector<GpuReport> out;
  for (const char* const gpu : kGpus) {
    const std::string reason = why_not(gpu);
    if (!reason.empty()) {
      out.push_back({gpu, "none: " + reason});
      continue;
    }
    const std::unique_ptr<Device> device = make_device(gpu);
    out.push_back({gpu, fmt::format("{}: {}", device->name(), device->facts())});
  }
  return out;
}

std::string resolve_device(const std::string& backend) {
  if (backend != "msl") return backend;
  std::string reasons;
  for (const char* const gpu : kGpus) {
    const std::string reason = why_not(gpu);
    if (reason.empty()) return gpu;
    reasons += fmt::format("{}{}: {}", reasons.empty() ? "" : "; ", gpu, reason);
  }
  throw Error(ErrorCode::kNotFound,
              fmt::format("no GPU for backend msl here ({}); the host executor, which is slow, is msl-host", reasons));
}

std::unique_ptr<Device> make_device(const std::string& backend) {
  const std::string name = resolve_device(backend);
  const auto added = added_devices().find(name);
  if (added != added_devices().end()) return added->second();
  if (name == "msl-host") return make_host_device();
  if (name == "msl-host-debug") {
    HostDeviceOptions options;
    options.debug = true;
    return make_host_device(options);
  }
  if (name == "msl-cuda" && why_not(name).empty()) return make_cuda_device();
#if METAL_MARLIN_METAL
  if (name == "msl-metal" && why_not(name).empty()) return make_metal();
#endif
  refuse(name);
}

void add_device(const std::string& backend, std::function<std::unique_ptr<Device>()> make) {
  added_devices()[backend] = std::move(make);
}

}  // namespace metal_marlin::msl
