// Hadamard transforms of rows in blocks on a device (shaders/hadamard.metal).
#pragma once

#include "backends/msl/device.h"

namespace metal_marlin::msl {

enum class HadamardDirection : std::uint8_t { kForward, kInverse };

// out = H in / sqrt(block) for each block of the rows of in[rows][cols], f32, f16 or bf16, so that the
// inverse undoes it; both may be one buffer. Blocks: m 2^n up to 4096 with m = 1, 12, 20 or 28, at least 2.
// \throws Error (kInvalidArgument) for other blocks, or ones that do not divide a row.
void encode_hadamard(Device& device, Commands& commands, DType type, std::int64_t rows, std::int64_t cols,
                     std::uint32_t block, HadamardDirection direction, Buffer& in, Buffer& out);

}  // namespace metal_marlin::msl
