#include "backends/msl/cuda/cuda_driver.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <string>

#include "metal_marlin/error.h"

namespace metal_marlin::msl::cuda {
namespace {

struct Loaded {
  Driver driver{};
  std::string missing;  // empty: usable
};

template <typename F>
void load(void* library, const char* name, F& out, std::string& missing) {
  out = reinterpret_cast<F>(dlsym(library, name));
  if (out == nullptr && missing.empty()) missing = fmt::format("the CUDA driver has no {}", name);
}

Loaded load_driver() {
  Loaded out;
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    out.missing = "there is no CUDA driver (libcuda.so.1)";
    return out;
  }
  Driver& d = out.driver;
  std::string& m = out.missing;
  load(library, "cuInit", d.init, m);
  load(library, "cuDeviceGet", d.device_get, m);
  load(library, "cuDeviceGetCount", d.device_get_count, m);
  load(library, "cuDeviceGetName", d.device_get_name, m);
  load(library, "cuDeviceGetAttribute", d.device_get_attribute, m);
  load(library, "cuDevicePrimaryCtxRetain", d.primary_context_retain, m);
  load(library, "cuCtxSetCurrent", d.context_set_current, m);
  load(library, "cuMemGetInfo_v2", d.mem_get_info, m);
  load(library, "cuMemAlloc_v2", d.mem_alloc, m);
  load(library, "cuMemFree_v2", d.mem_free, m);
  load(library, "cuMemHostAlloc", d.mem_host_alloc, m);
  load(library, "cuMemFreeHost", d.mem_free_host, m);
  load(library, "cuMemcpyHtoD_v2", d.copy_to_device, m);
  load(library, "cuMemcpyDtoH_v2", d.copy_to_host, m);
  load(library, "cuMemcpyHtoDAsync_v2", d.copy_to_device_async, m);
  load(library, "cuMemcpyDtoHAsync_v2", d.copy_to_host_async, m);
  load(library, "cuMemcpyDtoDAsync_v2", d.copy_on_device_async, m);
  load(library, "cuModuleLoadDataEx", d.module_load_data, m);
  load(library, "cuModuleUnload", d.module_unload, m);
  load(library, "cuModuleGetFunction", d.module_get_function, m);
  load(library, "cuModuleGetGlobal_v2", d.module_get_global, m);
  load(library, "cuFuncSetAttribute", d.function_set_attribute, m);
  load(library, "cuLaunchKernelEx", d.launch_kernel, m);
  load(library, "cuStreamCreate", d.stream_create, m);
  load(library, "cuStreamDestroy_v2", d.stream_destroy, m);
  load(library, "cuStreamSynchronize", d.stream_synchronize, m);
  load(library, "cuStreamBeginCapture_v2", d.stream_begin_capture, m);
  load(library, "cuStreamEndCapture", d.stream_end_capture, m);
  load(library, "cuGraphInstantiateWithFlags", d.graph_instantiate, m);
  load(library, "cuGraphLaunch", d.graph_launch, m);
  load(library, "cuGraphDestroy", d.graph_destroy, m);
  load(library, "cuGraphExecDestroy", d.graph_exec_destroy, m);
  load(library, "cuEventCreate", d.event_create, m);
  load(library, "cuEventDestroy_v2", d.event_destroy, m);
  load(library, "cuEventRecord", d.event_record, m);
  load(library, "cuEventElapsedTime", d.event_elapsed, m);
  load(library, "cuGetErrorString", d.error_string, m);
  if (!m.empty()) return out;
  int count = 0;
  if (d.init(0) != 0 || d.device_get_count(&count) != 0 || count == 0) m = "there is no CUDA device";
  return out;
}

const Loaded& loaded() {
  static const Loaded instance = load_driver();
  return instance;
}

}  // namespace

const Driver* find_driver() {
  return loaded().missing.empty() ? &loaded().driver : nullptr;
}

const Driver& require_driver() {
  if (!loaded().missing.empty()) throw Error(ErrorCode::kUnsupported, loaded().missing);
  return loaded().driver;
}

void check(Result result, const char* what) {
  if (result == 0) return;
  const char* text = nullptr;
  if (loaded().driver.error_string != nullptr) loaded().driver.error_string(result, &text);
  throw Error(ErrorCode::kInternal,
              fmt::format("CUDA: {} failed: {} ({})", what, text == nullptr ? "unknown error" : text, result));
}

}  // namespace metal_marlin::msl::cuda
