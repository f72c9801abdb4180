// Fused attention over keys and values that lie side by side, sequences of any lengths
// packed one after another: the scores are never stored.
#include "common/packed_attention.h"

// One threadgroup a query and head. Grid: (heads, queries).
template <typename T, typename Rows, typename Shape>
[[kernel, max_total_threads_per_threadgroup(128)]] void flash_attention(
    device const T* q [[buffer(0)]], device const uchar* keys [[buffer(1)]], device const uchar* values [[buffer(2)]],
    device T* out [[buffer(3)]], device const int* sequences [[buffer(4)]], device const int* q_starts [[buffer(5)]],
    device const int* k_starts [[buffer(6)]], device const float* mask [[buffer(7)]],
    device const float* sinks [[buffer(8)]], constant PackedParams& p [[buffer(9)]],
    uint2 group [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  threadgroup AttentionShare<Shape> share;
  const uint head = group.x, token = group.y;
  const VisibleKeys seen = visible_keys(p, sequences, q_starts, k_starts, token);
  const PackedKeys where = packed_keys(p, seen.first, head / (p.heads / p.kv_heads), p.key_width, 0);
  const Query<Shape> query =
      load_query<Shape>(q + (ulong(token) * p.heads + head) * p.key_width, p.key_width, lane);
  Attended<Shape> a = nothing_attended<Shape>();
  device const float* row = p.mask_stride != 0 ? mask + ulong(token) * p.mask_stride : nullptr;
  attend<Rows, Shape, 1>(&a, &query, keys, values, where, {p.scale, p.soft_cap}, row, seen.begin, seen.end, simdgroup,
                         lane);
  share_attended(share, a, simdgroup, lane);
  const float sink = p.sinks != 0 ? sinks[head] : -INFINITY;
  for (uint e = simdgroup * 32 + lane; e < p.value_width; e += 32 * kAttentionSimdgroups)
    out[(ulong(token) * p.heads + head) * p.value_width + e] = T(attended_element(share, sink, e));
}

#define MM_FLASH_SHAPE(T, cache, Rows, width)                                                                         \
  template [[host_name("flash_attention_" #T "_" #cache "_" #width)]]                                                 \
  [[kernel, max_total_threads_per_threadgroup(128)]] void flash_attention<T, Rows, Head##width>(                      \
      device const T*, device const uchar*, device const uchar*, device T*, device const int*, device const int*,     \
      device const int*, device const float*, device const float*, constant PackedParams&, uint2, uint, uint);
#define MM_FLASH(T, cache, Rows)        \
  MM_FLASH_SHAPE(T, cache, Rows, 64)    \
  MM_FLASH_SHAPE(T, cache, Rows, 128)   \
  MM_FLASH_SHAPE(T, cache, Rows, 256)   \
  MM_FLASH_SHAPE(T, cache, Rows, 640)
MM_FLASH(float, float, NumberRows<float>)
MM_FLASH(float, half, NumberRows<half>)
MM_FLASH(float, bfloat, NumberRows<bfloat>)
MM_FLASH(half, half, NumberRows<half>)
MM_FLASH(bfloat, bfloat, NumberRows<bfloat>)
MM_FLASH(float, int8, Int8Rows)
MM_FLASH(float, int4, Int4Rows)
MM_FLASH(float, fp8, Fp8Rows)
MM_FLASH(float, fp4, Fp4Rows)

// Rows of f32 as a cache of another type has them. One simdgroup 32 elements: grid (groups
// of 32, rows).
template <typename Rows>
[[kernel, max_total_threads_per_threadgroup(32)]] void store_rows(
    device const float* x [[buffer(0)]], device uchar* rows [[buffer(1)]], constant uint& width [[buffer(2)]],
    uint2 at [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  const uint e = 32 * at.x + lane;
  Rows::store(rows, at.y, width, at.x, e < width ? x[ulong(at.y) * width + e] : 0.0f, lane);
}
#define MM_STORE_ROWS(cache, Rows)                                                                                 \
  template [[host_name("store_rows_" #cache)]] [[kernel, max_total_threads_per_threadgroup(32)]] void             \
  store_rows<Rows>(device const float*, device uchar*, constant uint&, uint2, uint);
MM_STORE_ROWS(float, NumberRows<float>)
MM_STORE_ROWS(half, NumberRows<half>)
MM_STORE_ROWS(bfloat, NumberRows<bfloat>)
MM_STORE_ROWS(int8, Int8Rows)
MM_STORE_ROWS(int4, Int4Rows)
MM_STORE_ROWS(fp8, Fp8Rows)
MM_STORE_ROWS(fp4, Fp4Rows)
