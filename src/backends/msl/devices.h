// Which devices of the msl backend there are here.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backends/msl/device.h"

namespace metal_marlin::msl {

// By the names that backends bear: "msl-metal" or "msl-cuda" where there is such a GPU, "msl-host"; best first.
std::vector<std::string> available_devices();
// What there is to say of each kind of GPU, for people: its name and facts, or why there is none.
struct GpuReport {
  std::string backend;
  std::string text;
};
std::vector<GpuReport> gpu_reports();
// The device that a backend's name stands for: "msl" for the GPU that there is, other names for what they are.
// \throws Error (kNotFound) saying why there is none; the host executor is slow, so it is taken by name alone.
std::string resolve_device(const std::string& backend);
// \param backend one of these, "msl" for the GPU, or "msl-host-debug": the host executor with every detector.
// \throws Error (kNotFound) naming those that there are, and why the one asked for is not.
std::unique_ptr<Device> make_device(const std::string& backend);

// Lets make_device make one more, which the others are not listed with: for tests.
void add_device(const std::string& backend, std::function<std::unique_ptr<Device>()> make);

}  // namespace metal_marlin::msl
