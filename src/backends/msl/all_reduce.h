// Reductions over shards on a device (shaders/all_reduce.metal). One device's part: what
// goes between ranks is MPI's.
#pragma once

#include "backends/msl/device.h"

namespace metal_marlin::msl {

// As in shaders/all_reduce.metal.
enum class ReduceOp : std::uint32_t { kSum, kMean, kMax, kMin };

// out[elements] = op over in[shards][elements], of type f32, f16 or bf16, summed in f32 in
// the order of the shards. A NaN in any shard gives NaN. \throws Error (kInvalidArgument) for no shards.
void encode_all_reduce(Device& device, Commands& commands, DType type, ReduceOp op, std::int64_t shards,
                       std::int64_t elements, Buffer& in, Buffer& out);

// The step of a ring: chunk = op(chunk, incoming), both f32. In the last step of a mean,
// `ranks` divides; elsewhere it is 1.
void encode_ring_step(Device& device, Commands& commands, ReduceOp op, std::int64_t elements, std::int64_t ranks,
                      Buffer& chunk, Buffer& incoming);

}  // namespace metal_marlin::msl
