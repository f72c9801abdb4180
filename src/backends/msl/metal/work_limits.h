// How much work a command buffer takes.
#pragma once

#include <cstddef>

namespace metal_marlin::msl::metal {

// Bytes of work (as metal_commands.cpp estimates it) after which a command buffer ends: macOS stops
// one that runs for seconds. The first of several is short, so that the GPU begins early.
struct WorkLimits {
  std::size_t first = std::size_t{16} << 20;
  std::size_t each = std::size_t{256} << 20;
};

}  // namespace metal_marlin::msl::metal
