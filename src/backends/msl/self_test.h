// A short run of every shader against the CPU's reference, for `status`.
#pragma once

#include <string>
#include <vector>

#include "backends/msl/device.h"

namespace metal_marlin::msl {

struct ShaderStatus {
  std::string shader;
  std::size_t kernels = 0;
  bool executed = false;  // its kernels ran to their end
  bool matched = false;   // and gave what the reference gives
  std::string fault;      // what went wrong, else empty
};
// In order of name.
std::vector<ShaderStatus> self_test(Device& device);

}  // namespace metal_marlin::msl
