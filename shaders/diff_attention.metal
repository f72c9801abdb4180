// Differential attention (arXiv 2410.05258): the difference of two softmaxes over the same
// values, normed head by head. A head has two queries and two keys of key_width, one after
// the other, and values of any width (the paper: twice key_width).
#include "common/packed_attention_params.h"
#include "common/packed_attention.h"
#include "common/unroll.h"

// One threadgroup a query and head. Grid: (heads, queries).
template <typename T, typename Shape>
[[kernel, max_total_threads_per_threadgroup(128)]] void diff_attention(
    device const T* q [[buffer(0)]], device const uchar* keys [[buffer(1)]], device const uchar* values [[buffer(2)]],
    device T* out [[buffer(3)]], device const int* sequences [[buffer(4)]], device const int* q_starts [[buffer(5)]],
    device const int* k_starts [[buffer(6)]], device const float* lambdas [[buffer(7)]],
    device const float* norm [[buffer(8)]], constant DiffParams& d [[buffer(9)]],
    uint2 group [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  threadgroup AttentionShare<Shape> share;
  threadgroup float difference[Shape::kWidth];
  threadgroup float squares[kAttentionSimdgroups];
  constant PackedParams& p = d.packed;
  const uint head = group.x, token = group.y, thread_index = simdgroup * 32 + lane;
  const VisibleKeys seen = visible_keys(p, sequences, q_starts, k_starts, token);
  MM_UNROLL for (uint half_index = 0; half_index < 2; ++half_index) {
    const uint offset = half_index * p.key_width;
    const PackedKeys where = packed_keys(p, seen.first, head / (p.heads / p.kv_heads), 2 * p.key_width, offset);
    const Query<Shape> query =
        load_query<Shape>(q + (ulong(token) * p.heads + head) * 2 * p.key_width + offset, p.key_width, lane);
    Attended<Shape> a = nothing_attended<Shape>();
    attend<NumberRows<T>, Shape, 1>(&a, &query, keys, values, where, {p.scale, p.soft_cap},
                                    (device const float*)nullptr, seen.begin, seen.end, simdgroup, lane);
    share_attended(share, a, simdgroup, lane);
    for (uint e = thread_index; e < p.value_width; e += 32 * kAttentionSimdgroups) {
      const float v = attended_element(share, -INFINITY, e);
      difference[e] = half_index == 0 ? v : difference[e] - lambdas[head] * v;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the share is read
  }
  float sum = 0.0f;
  for (uint e = thread_index; e < p.value_width; e += 32 * kAttentionSimdgroups)
    sum = fma(difference[e], difference[e], sum);
  sum = simd_sum(sum);
  if (lane == 0) squares[simdgroup] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  sum = 0.0f;
  MM_UNROLL for (uint s = 0; s < kAttentionSimdgroups; ++s) sum += squares[s];
  const float scale = d.norm != 0 ? d.factor / precise::sqrt(sum / float(p.value_width) + d.eps) : 1.0f;
  for (uint e = thread_index; e < p.value_width; e += 32 * kAttentionSimdgroups)
    out[(ulong(token) * p.heads + head) * p.value_width + e] =
        T(difference[e] * scale * (d.norm != 0 ? norm[e] : 1.0f));
}

#define MM_DIFF_SHAPE(T, width)                                                                                       \
  template [[host_name("diff_attention_" #T "_" #width)]] [[kernel, max_total_threads_per_threadgroup(128)]]          \
  void diff_attention<T, Head##width>(device const T*, device const uchar*, device const uchar*, device T*,           \
                                      device const int*, device const int*, device const int*, device const float*,   \
                                      device const float*, constant DiffParams&, uint2, uint, uint);
#define MM_DIFF(T)      \
  MM_DIFF_SHAPE(T, 64)  \
  MM_DIFF_SHAPE(T, 128) \
  MM_DIFF_SHAPE(T, 256)
MM_DIFF(float)
MM_DIFF(half)
MM_DIFF(bfloat)
