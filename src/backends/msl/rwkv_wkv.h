// The recurrences of RWKV-4 to 7 on a device (shaders/rwkv_wkv.metal), over sequences of any
// lengths. r, k, v, a, b and y are [tokens][heads][dim] of type f32, f16 or bf16, everything
// else f32; starts i32 [sequences + 1]: the first token of each; state is read and written.
#pragma once

#include "backends/msl/device.h"

namespace metal_marlin::msl {

struct WkvShape {
  std::int64_t sequences = 0;
  std::int64_t heads = 0;
  std::int64_t dim = 0;  // of a head, at most 128
};

// RWKV-4 (arXiv 2305.13048): k, v, y [tokens][channels]; w: the decay's logarithm, u: the
// bonus, [channels]; state [sequences][3][channels]: numerator and denominator over e to the
// third, which starts as -infinity.
void encode_wkv4(Device& device, Commands& commands, DType type, std::int64_t sequences, std::int64_t channels,
                 Buffer& k, Buffer& v, Buffer& w, Buffer& u, Buffer& state, Buffer& y, Buffer& starts);

// RWKV-5 and 6 (arXiv 2404.05892): w is the decay, in (0, 1): [heads][dim], or
// [tokens][heads][dim] where it depends on the token; u [heads][dim]; state
// [sequences][heads][dim of k][dim of v]. \throws Error (kUnsupported) for larger heads.
void encode_wkv6(Device& device, Commands& commands, DType type, const WkvShape& shape, bool decay_of_tokens, Buffer& r,
                 Buffer& k, Buffer& v, Buffer& w, Buffer& u, Buffer& state, Buffer& y, Buffer& starts);

// RWKV-7 (arXiv 2503.14456): S = S (diag(w) + a b^T) + v k^T, y = S r; w [tokens][heads][dim];
// state [sequences][heads][dim of v][dim of k].
void encode_wkv7(Device& device, Commands& commands, DType type, const WkvShape& shape, Buffer& r, Buffer& w, Buffer& k,
                 Buffer& v, Buffer& a, Buffer& b, Buffer& state, Buffer& y, Buffer& starts);

}  // namespace metal_marlin::msl
