// Rotary position embedding on a device.
#pragma once

#include "backends/msl/device.h"
#include "io/dtype.h"

namespace metal_marlin::msl {

// As RopeParams in shaders/rope.metal.
struct RopeParams {
  std::uint32_t q_heads = 0;
  std::uint32_t k_heads = 0;  // 0: q alone
  std::uint32_t head_dim = 0;
  std::uint32_t first = 0;       // element of a head from where on it is rotated
  std::uint32_t rotary_dim = 0;  // elements that are rotated
  std::uint32_t q_stride = 0;    // elements between tokens
  std::uint32_t k_stride = 0;
  std::uint32_t interleaved = 0;  // pairs (2i, 2i + 1) instead of (i, i + rotary_dim / 2)
  float scale = 1;                // on cos and sin
};

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
