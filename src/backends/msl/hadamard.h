// Hadamard transforms of rows in blocks on a device (shaders/hadamard.metal).
#pragma once

#include "backends/msl/device.h"

namespace metal_marlin::msl {

enum class HadamardDirection : std::uint8_t { kForward, kInverse };

// x[rows][cols] of type f32, f16 or bf16, in place, each block of a row: y = H x / sqrt(block),
// so that the inverse undoes it. Blocks: m 2^n up to 4096 with m = 1, 12, 20 or 28, at least 2.
// \throws Error (kInvalidArgument) for other blocks, or ones that do not divide a row.
void encode_hadamard(Device& device, Commands& commands, DType type, std::int64_t rows, std::int64_t cols,
                     std::uint32_t block, HadamardDirection direction, Buffer& x);

}  // namespace metal_marlin::msl
