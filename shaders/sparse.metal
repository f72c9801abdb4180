// N:M sparsity: of each M neighbouring weights of a row N are kept (1:4, 2:4, 2:8, 4:8).
// Values lie [row][group][N] by rising position; positions, 2 or 3 bits each, as one
// little-endian stream of words a row, whole words for 16 groups.
#include <metal_stdlib>

#include "common/unroll.h"

using namespace metal;

template <int kKept, int kOf>
struct Pattern {
  static constant constexpr uint kN = kKept;
  static constant constexpr uint kM = kOf;
  static constant constexpr uint kBits = kOf == 4 ? 2 : 3;
  static constant constexpr uint kGroupBits = kBits * kKept;
  static constant constexpr uint kWords = kGroupBits / 2;  // of 16 groups
};

METAL_FUNC uint groups_of(uint cols, uint m) {
  return (cols + m - 1) / m;
}
METAL_FUNC uint words_of(uint cols, uint m, uint words) {
  return (groups_of(cols, m) + 15) / 16 * words;
}
// The positions of a group.
template <typename P>
METAL_FUNC uint group_positions(device const uint* row, uint group) {
  const uint bit = group * P::kGroupBits, word = bit / 32, shift = bit % 32;
  uint v = row[word] >> shift;
  if (shift + P::kGroupBits > 32) v |= row[word + 1] << (32 - shift);
  return v & ((1u << P::kGroupBits) - 1u);
}

// Keeps the largest, of equals the first, and zeros' places last. One thread 16 groups:
// grid (groups / 16, rows).
template <typename T, int kKept, int kOf>
[[kernel]] void sparse_compress(device const T* weights [[buffer(0)]], device T* values [[buffer(1)]],
                                device uint* positions [[buffer(2)]], constant uint& cols [[buffer(3)]],
                                uint2 at [[thread_position_in_grid]]) {
  typedef Pattern<kKept, kOf> P;
  const uint groups = groups_of(cols, P::kM);
  uint words[P::kWords];
  MM_UNROLL for (uint i = 0; i < P::kWords; ++i) words[i] = 0;
  MM_UNROLL for (uint g = 0; g < 16; ++g) {
    const uint group = at.x * 16 + g;
    float size[P::kM];
    MM_UNROLL for (uint i = 0; i < P::kM; ++i) {
      const uint k = group * P::kM + i;
      // Past the row's end: chosen only where there is nothing else.
      size[i] = k < cols ? fabs(float(weights[ulong(at.y) * cols + k])) : -1.0f;
      if (isnan(size[i])) size[i] = INFINITY;
    }
    uint kept = 0;
    MM_UNROLL for (uint n = 0; n < P::kN; ++n) {
      uint best = P::kM;
      float largest = 0.0f;
      MM_UNROLL for (uint i = 0; i < P::kM; ++i) {
        if ((kept >> i & 1u) != 0 || (best != P::kM && !(size[i] > largest))) continue;
        best = i;
        largest = size[i];
      }
      kept |= 1u << best;
    }
    uint n = 0, code = 0;
    MM_UNROLL for (uint i = 0; i < P::kM; ++i) {
      if ((kept >> i & 1u) == 0) continue;
      const uint k = group * P::kM + i;
      if (group < groups)
        values[(ulong(at.y) * groups + group) * P::kN + n] = k < cols ? weights[ulong(at.y) * cols + k] : T(0.0f);
      code |= i << (P::kBits * n++);
    }
    if (group >= groups) continue;
    const uint bit = g * P::kGroupBits, word = bit / 32, shift = bit % 32;
    words[word] |= code << shift;
    if (shift + P::kGroupBits > 32) words[word + 1] |= code >> (32 - shift);
  }
  device uint* row = positions + ulong(at.y) * words_of(cols, P::kM, P::kWords) + at.x * P::kWords;
  MM_UNROLL for (uint i = 0; i < P::kWords; ++i) row[i] = words[i];
}

// One thread a group: grid (groups, rows).
template <typename T, int kKept, int kOf>
[[kernel]] void sparse_decompress(device const T* values [[buffer(0)]], device const uint* positions [[buffer(1)]],
                                  device T* weights [[buffer(2)]], constant uint& cols [[buffer(3)]],
                                  uint2 at [[thread_position_in_grid]]) {
  typedef Pattern<kKept, kOf> P;
  const uint groups = groups_of(cols, P::kM);
  uint code = group_positions<P>(positions + ulong(at.y) * words_of(cols, P::kM, P::kWords), at.x);
  const uint first = at.x * P::kM;
  for (uint i = 0; i < P::kM && first + i < cols; ++i) weights[ulong(at.y) * cols + first + i] = T(0.0f);
  MM_UNROLL for (uint n = 0; n < P::kN; ++n, code >>= P::kBits) {
    const uint k = first + (code & (P::kM - 1));
    if (k < cols) weights[ulong(at.y) * cols + k] = values[(ulong(at.y) * groups + at.x) * P::kN + n];
  }
}

// y = W x of f32 activations, summed in f32. One simdgroup a row and four tokens: grid
// (rows, tokens / 4).
template <typename T, int kKept, int kOf>
[[kernel, max_total_threads_per_threadgroup(32)]] void sparse_linear(
    device const T* values [[buffer(0)]], device const uint* positions [[buffer(1)]],
    device const float* x [[buffer(2)]], device float* y [[buffer(3)]], constant uint& rows [[buffer(4)]],
    constant uint& cols [[buffer(5)]], constant uint& tokens [[buffer(6)]],
    uint2 at [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  typedef Pattern<kKept, kOf> P;
  const uint groups = groups_of(cols, P::kM), first_token = at.y * 4;
  device const uint* row = positions + ulong(at.x) * words_of(cols, P::kM, P::kWords);
  float4 sums = float4(0.0f);
  for (uint group = lane; group < groups; group += 32) {
    uint code = group_positions<P>(row, group);
    MM_UNROLL for (uint n = 0; n < P::kN; ++n, code >>= P::kBits) {
      const uint k = group * P::kM + (code & (P::kM - 1));
      if (k >= cols) continue;
      const float w = float(values[(ulong(at.x) * groups + group) * P::kN + n]);
      MM_UNROLL for (uint t = 0; t < 4; ++t)
        if (first_token + t < tokens) sums[t] = fma(w, x[ulong(first_token + t) * cols + k], sums[t]);
    }
  }
  MM_UNROLL for (uint t = 0; t < 4; ++t) {
    const float total = simd_sum(sums[t]);
    if (lane == 0 && first_token + t < tokens) y[ulong(first_token + t) * rows + at.x] = total;
  }
}

#define MM_SPARSE_PATTERN(T, n, m)                                                                                    \
  template [[host_name("sparse_compress_" #T "_" #n "_" #m)]] [[kernel]] void sparse_compress<T, n, m>(               \
      device const T*, device T*, device uint*, constant uint&, uint2);                                               \
  template [[host_name("sparse_decompress_" #T "_" #n "_" #m)]] [[kernel]] void sparse_decompress<T, n, m>(           \
      device const T*, device const uint*, device T*, constant uint&, uint2);                                         \
  template [[host_name("sparse_linear_" #T "_" #n "_" #m)]] [[kernel, max_total_threads_per_threadgroup(32)]]         \
  void sparse_linear<T, n, m>(device const T*, device const uint*, device const float*, device float*,                \
                              constant uint&, constant uint&, constant uint&, uint2, uint);
#define MM_SPARSE(T)         \
  MM_SPARSE_PATTERN(T, 1, 4) \
  MM_SPARSE_PATTERN(T, 2, 4) \
  MM_SPARSE_PATTERN(T, 2, 8) \
  MM_SPARSE_PATTERN(T, 4, 8)
MM_SPARSE(float)
MM_SPARSE(half)
MM_SPARSE(bfloat)
