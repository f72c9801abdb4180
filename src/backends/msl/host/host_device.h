// The host executor as a device.
#pragma once

#include <functional>
#include <string>

#include "backends/msl/device.h"
#include "backends/msl/host/executor.h"

namespace metal_marlin::msl {

struct HostDeviceOptions {
  int workers = 0;     // threads, 0: one a core
  bool debug = false;  // instrumented shaders and every detector
  LaneOrder order = LaneOrder::kForward;
  std::uint64_t seed = 0;
  std::uint32_t matrix_lane_mask = 0;  // this and the next as in HostDispatch
  bool flush_subnormals = false;
};

// Empty: this build has kernels for the host executor; else what is missing.
std::string why_no_host_device();
// Commands throw Error (kInternal) with a Fault's message from wait().
// \throws Error (kUnsupported) when the processor lacks what the shaders were compiled for.
std::unique_ptr<Device> make_host_device(const HostDeviceOptions& options = {});

// Whether something wrote just behind a buffer of a host device, which kernels without detectors can.
bool written_behind(const Buffer& buffer);

// "878 of FILE" where METAL_MARLIN_METALLIB names a file whose kernels the host device takes, else empty.
std::string host_kernels();

// Takes what is to be said where lowering that file's kernels takes over two seconds; called from another thread.
void on_lowering(std::function<void(const std::string&)> notice);

// A kernel of any library, such as one loaded at run time.
std::unique_ptr<Pipeline> make_host_pipeline(const MslLibrary& library, std::size_t kernel,
                                             const FunctionConstants& constants = {});

}  // namespace metal_marlin::msl
