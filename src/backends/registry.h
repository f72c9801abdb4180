// The backends there are, by name.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backends/backend.h"

namespace metal_marlin {

struct BackendOptions {
  std::shared_ptr<ThreadPool> pool;  // loads weights, and runs the steps of the cpu
  std::string instruction_set;       // of the cpu, as Kernels::name; empty: the best
};

// Those that run here: "cpu", then the devices of the msl backend.
std::vector<std::string> available_backends();
// \param name one of these, or what else the msl backend has a device for (msl/devices.h)
// \throws Error (kNotFound) naming those that there are.
std::unique_ptr<Backend> make_backend(const std::string& name, const BackendOptions& options);

}  // namespace metal_marlin
