// The recurrences of RWKV-4 (arXiv 2305.13048), 5 and 6 (2404.05892) and 7 (2503.14456),
// over sequences of any lengths, one token or many: state in, state out, all in f32.
#include <metal_stdlib>

#include "common/rwkv_params.h"
#include "common/unroll.h"

using namespace metal;

// RWKV-4, channel by channel: numerator and denominator over their largest exponent, so that
// nothing overflows. w: log of the decay (negative); state [sequences][3][channels].
// Grid: (channels, sequences).
template <typename T>
[[kernel]] void wkv4(device const T* k [[buffer(0)]], device const T* v [[buffer(1)]],
                     device const float* w [[buffer(2)]], device const float* u [[buffer(3)]],
                     device float* state [[buffer(4)]], device T* y [[buffer(5)]],
                     device const int* starts [[buffer(6)]], constant uint& channels [[buffer(7)]],
                     uint2 at [[thread_position_in_grid]]) {
  device float* s = state + ulong(at.y) * 3 * channels + at.x;
  float a = s[0], b = s[channels], top = s[2 * channels];
  for (int t = starts[at.y]; t < starts[at.y + 1]; ++t) {
    const ulong i = ulong(t) * channels + at.x;
    const float key = float(k[i]), value = float(v[i]);
    const float now = u[at.x] + key;
    float largest = max(top, now);
    const float past = exp(top - largest), present = exp(now - largest);
    y[i] = T((past * a + present * value) / (past * b + present));
    const float faded = top + w[at.x];
    largest = max(faded, key);
    const float kept = exp(faded - largest), added = exp(key - largest);
    a = kept * a + added * value;
    b = kept * b + added;
    top = largest;
  }
  s[0] = a;
  s[channels] = b;
  s[2 * channels] = top;
}

// RWKV-5 and 6: y_j = sum_i r_i (S_ij + u_i k_i v_j), then S_ij = w_i S_ij + k_i v_j. A
// thread holds column j of a head's state [i][j]; w: the decay itself, (0, 1).
// One threadgroup a head and sequence: grid (heads, sequences), `dim` threads rounded up.
template <typename T, int kDim>
[[kernel, max_total_threads_per_threadgroup(128)]] void wkv6(
    device const T* r [[buffer(0)]], device const T* k [[buffer(1)]], device const T* v [[buffer(2)]],
    device const float* w [[buffer(3)]], device const float* u [[buffer(4)]], device float* state [[buffer(5)]],
    device T* y [[buffer(6)]], device const int* starts [[buffer(7)]], constant WkvParams& p [[buffer(8)]],
    uint2 group [[threadgroup_position_in_grid]], uint j [[thread_index_in_threadgroup]]) {
  threadgroup float receptance[kDim], key[kDim], decay[kDim], bonus[kDim];
  const bool mine = j < p.dim;
  device float* s = state + (ulong(group.y) * p.heads + group.x) * p.dim * p.dim + j;
  float column[kDim];
  MM_UNROLL for (uint i = 0; i < uint(kDim); ++i) column[i] = mine && i < p.dim ? s[i * p.dim] : 0.0f;
  if (mine) bonus[j] = u[group.x * p.dim + j];
  for (int t = starts[group.y]; t < starts[group.y + 1]; ++t) {
    const ulong at = (ulong(t) * p.heads + group.x) * p.dim + j;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (mine) {
      receptance[j] = float(r[at]);
      key[j] = float(k[at]);
      decay[j] = w[ulong(t) * p.w_stride + group.x * p.dim + j];
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const float value = mine ? float(v[at]) : 0.0f;
    float sum = 0.0f;
    MM_UNROLL for (uint i = 0; i < uint(kDim); ++i) {
      if (i >= p.dim) continue;
      const float product = key[i] * value;
      sum = fma(receptance[i], fma(bonus[i], product, column[i]), sum);
      column[i] = fma(decay[i], column[i], product);
    }
    if (mine) y[at] = T(sum);
  }
  MM_UNROLL for (uint i = 0; i < uint(kDim); ++i)
    if (mine && i < p.dim) s[i * p.dim] = column[i];
}

// RWKV-7, the generalized delta rule: S = S (diag(w) + a b^T) + v k^T, y = S r. A thread
// holds row i of a head's state [i][j].
template <typename T, int kDim>
[[kernel, max_total_threads_per_threadgroup(128)]] void wkv7(
    device const T* r [[buffer(0)]], device const float* w [[buffer(1)]], device const T* k [[buffer(2)]],
    device const T* v [[buffer(3)]], device const T* a [[buffer(4)]], device const T* b [[buffer(5)]],
    device float* state [[buffer(6)]], device T* y [[buffer(7)]], device const int* starts [[buffer(8)]],
    constant WkvParams& p [[buffer(9)]], uint2 group [[threadgroup_position_in_grid]],
    uint i [[thread_index_in_threadgroup]]) {
  threadgroup float receptance[kDim], key[kDim], decay[kDim], removed[kDim], replaced[kDim];
  const bool mine = i < p.dim;
  device float* s = state + ((ulong(group.y) * p.heads + group.x) * p.dim + i) * p.dim;
  float row[kDim];
  MM_UNROLL for (uint j = 0; j < uint(kDim); ++j) row[j] = mine && j < p.dim ? s[j] : 0.0f;
  for (int t = starts[group.y]; t < starts[group.y + 1]; ++t) {
    const ulong at = (ulong(t) * p.heads + group.x) * p.dim + i;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (mine) {
      receptance[i] = float(r[at]);
      key[i] = float(k[at]);
      decay[i] = w[at];
      removed[i] = float(a[at]);
      replaced[i] = float(b[at]);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const float value = mine ? float(v[at]) : 0.0f;
    float along = 0.0f;
    MM_UNROLL for (uint j = 0; j < uint(kDim); ++j)
      if (j < p.dim) along = fma(row[j], removed[j], along);
    float sum = 0.0f;
    MM_UNROLL for (uint j = 0; j < uint(kDim); ++j) {
      if (j >= p.dim) continue;
      row[j] = fma(row[j], decay[j], fma(along, replaced[j], value * key[j]));
      sum = fma(row[j], receptance[j], sum);
    }
    if (mine) y[at] = T(sum);
  }
  MM_UNROLL for (uint j = 0; j < uint(kDim); ++j)
    if (mine && j < p.dim) s[j] = row[j];
}

#define MM_WKV_DIM(T, dim)                                                                                             \
  template [[host_name("wkv6_" #T "_" #dim)]] [[kernel, max_total_threads_per_threadgroup(128)]] void wkv6<T, dim>(    \
      device const T*, device const T*, device const T*, device const float*, device const float*, device float*,     \
      device T*, device const int*, constant WkvParams&, uint2, uint);                                                 \
  template [[host_name("wkv7_" #T "_" #dim)]] [[kernel, max_total_threads_per_threadgroup(128)]] void wkv7<T, dim>(    \
      device const T*, device const float*, device const T*, device const T*, device const T*, device const T*,       \
      device float*, device T*, device const int*, constant WkvParams&, uint2, uint);
#define MM_WKV(T)                                                                                                      \
  template [[host_name("wkv4_" #T)]] [[kernel]] void wkv4<T>(device const T*, device const T*, device const float*,    \
                                                             device const float*, device float*, device T*,            \
                                                             device const int*, constant uint&, uint2);                \
  MM_WKV_DIM(T, 64)                                                                                                    \
  MM_WKV_DIM(T, 128)
MM_WKV(float)
MM_WKV(half)
MM_WKV(bfloat)
