// Attention in three steps, its scores in memory: for those who want the weights themselves,
// and the plainest form to compare others with. Sequences packed as in flash_attention.
#include "common/packed_attention.h"
#include "common/unroll.h"

// scores [queries][heads][stride]: of every key of the sequence, -inf where a query does not
// see it. One threadgroup a query and head: grid (heads, queries).
template <typename T, typename Rows, typename Shape>
[[kernel, max_total_threads_per_threadgroup(128)]] void attention_scores(
    device const T* q [[buffer(0)]], device const uchar* keys [[buffer(1)]], device float* scores [[buffer(2)]],
    device const int* sequences [[buffer(3)]], device const int* q_starts [[buffer(4)]],
    device const int* k_starts [[buffer(5)]], device const float* mask [[buffer(6)]],
    constant PackedParams& p [[buffer(7)]], constant uint& stride [[buffer(8)]],
    uint2 group [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  const uint head = group.x, token = group.y, part = lane / Shape::kLanes;
  const VisibleKeys seen = visible_keys(p, sequences, q_starts, k_starts, token);
  const PackedKeys where = packed_keys(p, seen.first, head / (p.heads / p.kv_heads), p.key_width, 0);
  const Query<Shape> query =
      load_query<Shape>(q + (ulong(token) * p.heads + head) * p.key_width, p.key_width, lane);
  device float* const row = scores + (ulong(token) * p.heads + head) * stride;
  const int s = sequences[token];
  const uint count = uint(k_starts[s + 1] - k_starts[s]);
  for (uint first = simdgroup * Shape::kParts; first < count; first += kAttentionSimdgroups * Shape::kParts) {
    const uint key = first + part;
    float product = 0.0f;
    MM_UNROLL for (uint c = 0; c < uint(Shape::kChunks); ++c) {
      const uint e = chunk_at<Shape>(c, lane);
      if (e < p.key_width) product += dot(query.e[c], Rows::template load<false>(keys, where.key_row(min(key, count - 1)), p.key_width, e));
    }
    float score = final_score(sum_of_key<Shape::kLanes>(product), {p.scale, p.soft_cap});
    if (key >= count || lane % Shape::kLanes != 0) continue;
    if (p.mask_stride != 0) score += mask[ulong(token) * p.mask_stride + key];
    row[key] = key >= seen.begin && key < seen.end ? score : -INFINITY;
  }
}

// Scores become weights in place; all zero where a query sees nothing. A sink takes its part
// and is left out. One threadgroup a query and head: grid (heads, queries).
[[kernel, max_total_threads_per_threadgroup(128)]] void attention_softmax(
    device float* scores [[buffer(0)]], device const int* sequences [[buffer(1)]],
    device const int* k_starts [[buffer(2)]], device const float* sinks [[buffer(3)]],
    constant PackedParams& p [[buffer(4)]], constant uint& stride [[buffer(5)]],
    uint2 group [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float parts[kAttentionSimdgroups];
  device float* const row = scores + (ulong(group.y) * p.heads + group.x) * stride;
  const int s = sequences[group.y];
  const uint count = uint(k_starts[s + 1] - k_starts[s]), index = simdgroup * 32 + lane;
  const float sink = p.sinks != 0 ? sinks[group.x] : -INFINITY;
  float top = sink;
  for (uint k = index; k < count; k += 32 * kAttentionSimdgroups) top = max(top, row[k]);
  top = simd_max(top);
  if (lane == 0) parts[simdgroup] = top;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  MM_UNROLL for (uint g = 0; g < kAttentionSimdgroups; ++g) top = max(top, parts[g]);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float sum = 0.0f;
  for (uint k = index; k < count; k += 32 * kAttentionSimdgroups) {
    const float weight = top == -INFINITY ? 0.0f : exp(row[k] - top);
    row[k] = weight;
    sum += weight;
  }
  sum = simd_sum(sum);
  if (lane == 0) parts[simdgroup] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  sum = sink == -INFINITY ? 0.0f : exp(sink - top);
  MM_UNROLL for (uint g = 0; g < kAttentionSimdgroups; ++g) sum += parts[g];
  const float factor = top == -INFINITY ? 0.0f : 1.0f / sum;
  for (uint k = index; k < count; k += 32 * kAttentionSimdgroups) row[k] *= factor;
}

// out [queries][heads][value_width] = weights times values. One thread four elements: grid
// (value_width / 4, heads, queries).
template <typename T, typename Rows>
[[kernel]] void attention_values(device const float* weights [[buffer(0)]], device const uchar* values [[buffer(1)]],
                                 device T* out [[buffer(2)]], device const int* sequences [[buffer(3)]],
                                 device const int* k_starts [[buffer(4)]], constant PackedParams& p [[buffer(5)]],
                                 constant uint& stride [[buffer(6)]], uint3 at [[thread_position_in_grid]]) {
  const uint e = 4 * at.x;
  const int s = sequences[at.z];
  const uint count = uint(k_starts[s + 1] - k_starts[s]);
  device const float* const row = weights + (ulong(at.z) * p.heads + at.y) * stride;
  const PackedKeys where = packed_keys(p, uint(k_starts[s]), at.y / (p.heads / p.kv_heads), p.key_width, 0);
  float4 sum = float4(0.0f);
  for (uint k = 0; k < count; ++k) sum += row[k] * Rows::template load<false>(values, where.value_row(k), p.value_width, e);
  MM_UNROLL for (uint i = 0; i < 4; ++i)
    if (e + i < p.value_width) out[(ulong(at.z) * p.heads + at.y) * p.value_width + e + i] = T(sum[i]);
}

#define MM_SCORES(T, cache, Rows, width)                                                                             \
  template [[host_name("attention_scores_" #T "_" #cache "_" #width)]]                                               \
  [[kernel, max_total_threads_per_threadgroup(128)]] void attention_scores<T, Rows, Head##width>(                    \
      device const T*, device const uchar*, device float*, device const int*, device const int*, device const int*,  \
      device const float*, constant PackedParams&, constant uint&, uint2, uint, uint);
#define MM_ATTENTION(T, cache, Rows)                                                                               \
  MM_SCORES(T, cache, Rows, 64)                                                                                    \
  MM_SCORES(T, cache, Rows, 128)                                                                                   \
  MM_SCORES(T, cache, Rows, 256)                                                                                   \
  MM_SCORES(T, cache, Rows, 640)                                                                                   \
  template [[host_name("attention_values_" #T "_" #cache)]] [[kernel]] void attention_values<T, Rows>(             \
      device const float*, device const uchar*, device T*, device const int*, device const int*,                   \
      constant PackedParams&, constant uint&, uint3);
MM_ATTENTION(float, float, NumberRows<float>)
MM_ATTENTION(float, half, NumberRows<half>)
MM_ATTENTION(float, bfloat, NumberRows<bfloat>)
MM_ATTENTION(half, half, NumberRows<half>)
MM_ATTENTION(bfloat, bfloat, NumberRows<bfloat>)
MM_ATTENTION(float, int8, Int8Rows)
MM_ATTENTION(float, int4, Int4Rows)
MM_ATTENTION(float, fp8, Fp8Rows)
MM_ATTENTION(float, fp4, Fp4Rows)
