// How many cores the GPU has, which Metal does not tell.
#pragma once

#include <cstdint>
#include <optional>

namespace metal_marlin::msl::metal {

// From the I/O registry; nothing: it does not say.
std::optional<std::uint32_t> gpu_cores();

}  // namespace metal_marlin::msl::metal
