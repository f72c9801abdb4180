// Rotary position embedding (arXiv 2104.09864), in place, on q and k in one launch.
// Context extensions (linear, Llama 3.1, YaRN, dynamic) are in the frequencies and the
// factor on cos and sin. Every token has its own position; angles are f32 products.
#include <metal_stdlib>

using namespace metal;

struct RopeParams {
  uint q_heads;
  uint k_heads;  // 0: q alone
  uint head_dim;
  uint first;        // element of a head from where on it is rotated
  uint rotary_dim;   // elements that are rotated, even
  uint q_stride;     // elements between tokens
  uint k_stride;
  uint interleaved;  // pairs (2i, 2i + 1) instead of (i, i + rotary_dim / 2)
  float scale;       // on cos and sin
};

// One thread a pair: grid (pairs, q_heads + k_heads, tokens).
template <typename T>
[[kernel]] void rope(device T* q [[buffer(0)]], device T* k [[buffer(1)]], device const float* frequencies [[buffer(2)]],
                     device const int* positions [[buffer(3)]], constant RopeParams& p [[buffer(4)]],
                     uint3 at [[thread_position_in_grid]]) {
  if (at.x >= p.rotary_dim / 2 || at.y >= p.q_heads + p.k_heads) return;
  device T* head = at.y < p.q_heads ? q + ulong(at.z) * p.q_stride + at.y * p.head_dim
                                    : k + ulong(at.z) * p.k_stride + (at.y - p.q_heads) * p.head_dim;
  device T* first = head + p.first + (p.interleaved != 0 ? 2 * at.x : at.x);
  device T* second = first + (p.interleaved != 0 ? 1 : p.rotary_dim / 2);
  const float angle = float(positions[at.z]) * frequencies[at.x];
  const float cosine = precise::cos(angle) * p.scale, sine = precise::sin(angle) * p.scale;
  const float a = float(*first), b = float(*second);
  *first = T(a * cosine - b * sine);
  *second = T(b * cosine + a * sine);
}
#define MM_ROPE(T)                                                                                                \
  template [[host_name("rope_" #T)]] [[kernel]] void rope<T>(device T*, device T*, device const float*,           \
                                                             device const int*, constant RopeParams&, uint3);
MM_ROPE(float)
MM_ROPE(half)
MM_ROPE(bfloat)
