// Fused attention over keys and values that lie side by side, sequences of any lengths
// packed one after another: the scores are never stored.
#include "common/packed_attention.h"

// One threadgroup a query and head. kParts: elements of a lane. Grid: (heads, queries).
template <typename T, typename Cache, int kParts>
[[kernel, max_total_threads_per_threadgroup(128)]] void flash_attention(
    device const T* q [[buffer(0)]], device const Cache* keys [[buffer(1)]], device const Cache* values [[buffer(2)]],
    device T* out [[buffer(3)]], device const int* sequences [[buffer(4)]], device const int* q_starts [[buffer(5)]],
    device const int* k_starts [[buffer(6)]], device const float* mask [[buffer(7)]],
    device const float* sinks [[buffer(8)]], constant PackedParams& p [[buffer(9)]],
    uint2 group [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  threadgroup AttentionShare<kParts> share;
  const uint head = group.x, token = group.y;
  const VisibleKeys seen = visible_keys(p, sequences, q_starts, k_starts, token);
  const PackedKeys where = packed_keys(p, seen.first, head / (p.heads / p.kv_heads), p.key_width, 0);
  float query[kParts];
  load_head<T, kParts>(query, q + (ulong(token) * p.heads + head) * p.key_width, p.key_width, lane);
  Attended<kParts> a = nothing_attended<kParts>();
  device const float* row = p.mask_stride != 0 ? mask + ulong(token) * p.mask_stride : nullptr;
  attend(a, query, keys, values, where, {p.scale, p.soft_cap}, row, seen.begin, seen.end, simdgroup, lane);
  share_attended(share, a, simdgroup, lane);
  const float sink = p.sinks != 0 ? sinks[head] : -INFINITY;
  for (uint e = simdgroup * 32 + lane; e < p.value_width; e += 32 * kAttentionSimdgroups)
    out[(ulong(token) * p.heads + head) * p.value_width + e] = T(attended_element(share, sink, e));
}

#define MM_FLASH_PARTS(T, Cache, parts)                                                                               \
  template [[host_name("flash_attention_" #T "_" #Cache "_" #parts)]]                                                 \
  [[kernel, max_total_threads_per_threadgroup(128)]] void flash_attention<T, Cache, parts>(                           \
      device const T*, device const Cache*, device const Cache*, device T*, device const int*, device const int*,     \
      device const int*, device const float*, device const float*, constant PackedParams&, uint2, uint, uint);
#define MM_FLASH(T, Cache)   \
  MM_FLASH_PARTS(T, Cache, 2) \
  MM_FLASH_PARTS(T, Cache, 4) \
  MM_FLASH_PARTS(T, Cache, 8)
MM_FLASH(float, float)
MM_FLASH(float, half)
MM_FLASH(float, bfloat)
MM_FLASH(half, half)
MM_FLASH(bfloat, bfloat)
