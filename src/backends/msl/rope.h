// Rotary position embedding on a device.
#pragma once

#include "backends/msl/device.h"
#include "common/rope_params.h"
#include "io/dtype.h"

namespace metal_marlin::msl {

// q [tokens][q_stride] and k, of type f32, f16 or bf16, in place; frequencies f32
// [rotary_dim / 2], positions i32 [tokens]. \throws Error (kInvalidArgument) naming the parameter.
void encode_rope(Device& device, Commands& commands, const RopeParams& params, DType type, std::int64_t tokens,
                 Buffer& q, Buffer* k, Buffer& frequencies, Buffer& positions);

// The weights of the root-mean-square norms of single heads, f32 [head_dim].
struct HeadNorms {
  Buffer* q = nullptr;
  Buffer* k = nullptr;
  float eps = 0;
};
// The same after norms of every head.
void encode_norm_rope(Device& device, Commands& commands, const RopeParams& params, DType type, std::int64_t tokens,
                      Buffer& q, Buffer* k, Buffer& frequencies, Buffer& positions, const HeadNorms& norms);

}  // namespace metal_marlin::msl
