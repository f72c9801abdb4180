// The Metal device over a stand-in for Metal that records what it is told, holds it to Metal's rules and
// runs it on the host executor (metal_stub/). Not on macOS, where there is the real one.
#pragma once

#include <memory>

#include "backends/msl/device.h"

namespace metal_marlin::msl {

// The name of a backend that only tests have; empty: this build has it not.
#if METAL_MARLIN_RECORDED_METAL
constexpr const char* kRecordedMetal = "recorded-metal";
// With command buffers so short that every model has several.
std::unique_ptr<Device> make_recorded_metal();
int recorded_command_buffers();  // since the test began
#else
constexpr const char* kRecordedMetal = "";
#endif

}  // namespace metal_marlin::msl
