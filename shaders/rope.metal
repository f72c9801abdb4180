// Rotary position embedding (arXiv 2104.09864), in place, on q and k in one launch.
// Context extensions (linear, Llama 3.1, YaRN, dynamic) are in the frequencies and the
// factor on cos and sin. Every token has its own position; angles are f32 products.
#include "common/rope_params.h"
#include "common/launch.h"

// Rotates a pair of a head, whose elements are taken times `factor` and their weights, if there are any.
template <typename T>
METAL_FUNC void rotate(constant RopeParams& p, device T* head, uint pair, float factor, device const float* weight,
                       int position, device const float* frequencies) {
  const uint first = p.first + (p.interleaved != 0 ? 2 * pair : pair);
  const uint second = first + (p.interleaved != 0 ? 1 : p.rotary_dim / 2);
  const float angle = float(position) * frequencies[pair];
  const float cosine = precise::cos(angle) * p.scale, sine = precise::sin(angle) * p.scale;
  float a = float(head[first]), b = float(head[second]);
  if (weight != nullptr) {
    a = float(T(a * factor * weight[first]));
    b = float(T(b * factor * weight[second]));
  }
  head[first] = T(a * cosine - b * sine);
  head[second] = T(b * cosine + a * sine);
}

// One thread a pair: grid (pairs, q_heads + k_heads, tokens).
template <typename T>
[[kernel]] void rope(device T* q [[buffer(0)]], device T* k [[buffer(1)]], device const float* frequencies [[buffer(2)]],
                     device const int* positions [[buffer(3)]], constant RopeParams& p [[buffer(4)]],
                     uint3 at [[thread_position_in_grid]]) {
  follow_earlier_kernels();
  device T* head = at.y < p.q_heads ? q + ulong(at.z) * p.q_stride + at.y * p.head_dim
                                    : k + ulong(at.z) * p.k_stride + (at.y - p.q_heads) * p.head_dim;
  rotate(p, head, at.x, 1.0f, (device const float*)nullptr, positions[at.z], frequencies);
}

// Heads are normed first (rms_norm in gemm_epilogue.metal), each by itself. One simdgroup a head:
// grid (q_heads + k_heads, tokens).
template <typename T>
[[kernel, max_total_threads_per_threadgroup(32)]] void norm_rope(
    device T* q [[buffer(0)]], device T* k [[buffer(1)]], device const float* frequencies [[buffer(2)]],
    device const int* positions [[buffer(3)]], constant RopeParams& p [[buffer(4)]],
    device const float* q_weight [[buffer(5)]], device const float* k_weight [[buffer(6)]],
    constant float& eps [[buffer(7)]], uint2 at [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]]) {
  follow_earlier_kernels();
  const bool of_q = at.x < p.q_heads;
  device T* head = of_q ? q + ulong(at.y) * p.q_stride + at.x * p.head_dim
                        : k + ulong(at.y) * p.k_stride + (at.x - p.q_heads) * p.head_dim;
  device const float* weight = of_q ? q_weight : k_weight;
  float sum = 0.0f;
  for (uint e = lane; e < p.head_dim; e += 32) sum = fma(float(head[e]), float(head[e]), sum);
  const float factor = 1.0f / precise::sqrt(simd_sum(sum) / float(p.head_dim) + eps);
  simdgroup_barrier(mem_flags::mem_device);  // all is read
  for (uint pair = lane; pair < p.rotary_dim / 2; pair += 32)
    rotate(p, head, pair, factor, weight, positions[at.y], frequencies);
  for (uint e = lane; e < p.head_dim; e += 32) {
    if (e < p.first || e >= p.first + p.rotary_dim) head[e] = T(float(head[e]) * factor * weight[e]);
  }
}

#define MM_ROPE(T)                                                                                                \
  template [[host_name("rope_" #T)]] [[kernel]] void rope<T>(device T*, device T*, device const float*,           \
                                                             device const int*, constant RopeParams&, uint3);           \
  template [[host_name("norm_rope_" #T)]] [[kernel, max_total_threads_per_threadgroup(32)]] void norm_rope<T>(     \
      device T*, device T*, device const float*, device const int*, constant RopeParams&, device const float*,     \
      device const float*, constant float&, uint2, uint);
MM_ROPE(float)
MM_ROPE(half)
MM_ROPE(bfloat)
