#include "backends/registry.h"

#include <fmt/format.h>

#include "backends/cpu/cpu_backend.h"
#include "metal_marlin/error.h"
#if METAL_MARLIN_MSL
#include "backends/msl/devices.h"
#include "backends/msl/msl_backend.h"
#endif

namespace metal_marlin {
namespace {

#if METAL_MARLIN_MSL
std::unique_ptr<Backend> make_msl(const std::string& name, const BackendOptions& options) {
  const std::string resolved = msl::resolve_device(name);
  return msl::make_backend(resolved, msl::make_device(resolved), options.pool);
}
#else
[[noreturn]] std::unique_ptr<Backend> make_msl(const std::string& name, const BackendOptions&) {
  throw Error(ErrorCode::kNotFound,
              fmt::format("no backend {} in this program, which is built without Metal shaders; there is cpu", name));
}
#endif

}  // namespace

std::vector<std::string> available_backends() {
  std::vector<std::string> names{"cpu"};
#if METAL_MARLIN_MSL
  for (const std::string& device : msl::available_devices()) names.push_back(device);
#endif
  return names;
}

std::unique_ptr<Backend> make_backend(const std::string& name, const BackendOptions& options) {
  if (name != "cpu") return make_msl(name, options);
  const std::string& set = options.instruction_set;
  return cpu::make_backend(options.pool,
                           set.empty() ? *cpu::available_kernels().front() : cpu::find_kernels(set.c_str()));
}

}  // namespace metal_marlin
