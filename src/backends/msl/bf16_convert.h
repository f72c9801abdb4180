// bfloat16 as bits, for devices without the type (shaders/bf16_compat.metal).
#pragma once

#include <optional>

#include "backends/msl/device.h"

namespace metal_marlin::msl {

// out[elements] = in, from and to f32, f16 and bf16, one of them bf16. To bf16 to nearest
// even, or, from f32, with a seed at random: up with the probability of what is cut off, the
// same for the same seed. \throws Error (kInvalidArgument) for other pairs.
void encode_bf16_convert(Device& device, Commands& commands, DType from, DType to, std::int64_t elements, Buffer& in,
                         Buffer& out, std::optional<std::uint32_t> seed = std::nullopt);

}  // namespace metal_marlin::msl
