// Attention over a paged key-value cache: prefill and decode alike, each query its own
// position. Cache: [pages][kv heads][tokens of a page][head_dim], keys and values apart.
#include "common/attention.h"

struct PagedParams {
  uint heads;
  uint kv_heads;
  uint head_dim;     // at most 256
  uint page_tokens;
  uint table_stride; // pages of a sequence in the table
  uint q_stride;     // elements between tokens
  uint kv_stride;
  uint out_stride;
  uint window;       // keys that a query sees, itself included; 0: all
  float scale;
  float soft_cap;    // scores become cap * tanh(score / cap); 0: none
  uint sinks;        // whether heads have one
};

// Where a token's key and value lie, in elements.
METAL_FUNC ulong cache_place(constant PagedParams& p, device const int* table, uint position, uint kv_head) {
  const ulong page = ulong(table[position / p.page_tokens]);
  return ((page * p.kv_heads + kv_head) * p.page_tokens + position % p.page_tokens) * p.head_dim;
}

// Puts the keys and values of new tokens into the cache. Grid: (head_dim, kv heads, tokens).
template <typename T, typename Cache>
[[kernel]] void store_kv(device const T* k [[buffer(0)]], device const T* v [[buffer(1)]],
                         device Cache* keys [[buffer(2)]], device Cache* values [[buffer(3)]],
                         device const int* tables [[buffer(4)]], device const int* sequences [[buffer(5)]],
                         device const int* positions [[buffer(6)]], constant PagedParams& p [[buffer(7)]],
                         uint3 at [[thread_position_in_grid]]) {
  if (at.x >= p.head_dim) return;
  device const int* table = tables + ulong(sequences[at.z]) * p.table_stride;
  const ulong to = cache_place(p, table, uint(positions[at.z]), at.y) + at.x;
  const ulong from = ulong(at.z) * p.kv_stride + at.y * p.head_dim + at.x;
  keys[to] = Cache(float(k[from]));
  values[to] = Cache(float(v[from]));
}

// Pages of one sequence and key head, as attend() takes them.
struct PagedKeys {
  device const int* table;
  ulong head_base;  // of the head in a page, in elements
  uint page_elements;
  uint key_stride, value_stride, key_width, value_width;
  METAL_FUNC ulong key_at(uint block) const { return ulong(table[block]) * page_elements + head_base; }
  METAL_FUNC ulong value_at(uint block) const { return key_at(block); }
};

// One threadgroup a query and head. kParts: elements of a lane. Grid: (heads, tokens).
template <typename T, typename Cache, int kParts>
[[kernel, max_total_threads_per_threadgroup(128)]] void paged_attention(
    device const T* q [[buffer(0)]], device const Cache* keys [[buffer(1)]], device const Cache* values [[buffer(2)]],
    device T* out [[buffer(3)]], device const int* tables [[buffer(4)]], device const int* sequences [[buffer(5)]],
    device const int* positions [[buffer(6)]], device const float* sinks [[buffer(7)]],
    constant PagedParams& p [[buffer(8)]], uint2 group [[threadgroup_position_in_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup AttentionShare<kParts> share;
  const uint head = group.x, token = group.y, kv_head = head / (p.heads / p.kv_heads);
  PagedKeys where;
  where.table = tables + ulong(sequences[token]) * p.table_stride;
  where.page_elements = p.kv_heads * kKeyBlock * p.head_dim;
  where.head_base = kv_head * kKeyBlock * p.head_dim;
  where.key_stride = where.value_stride = where.key_width = where.value_width = p.head_dim;
  const uint end = uint(positions[token]) + 1;
  const uint begin = p.window != 0 && end > p.window ? end - p.window : 0;
  float query[kParts];
  load_head<T, kParts>(query, q + ulong(token) * p.q_stride + head * p.head_dim, p.head_dim, lane);
  Attended<kParts> a = nothing_attended<kParts>();
  attend(a, query, keys, values, where, {p.scale, p.soft_cap}, (device const float*)nullptr, begin, end, simdgroup, lane);
  share_attended(share, a, simdgroup, lane);
  const float sink = p.sinks != 0 ? sinks[head] : -INFINITY;
  for (uint e = simdgroup * 32 + lane; e < p.head_dim; e += 32 * kAttentionSimdgroups)
    out[ulong(token) * p.out_stride + head * p.head_dim + e] = T(attended_element(share, sink, e));
}

#define MM_PAGED_PARTS(T, Cache, parts)                                                                             \
  template [[host_name("paged_attention_" #T "_" #Cache "_" #parts)]] [[kernel, max_total_threads_per_threadgroup(128)]] \
  void paged_attention<T, Cache, parts>(device const T*, device const Cache*, device const Cache*, device T*,       \
                                        device const int*, device const int*, device const int*,                    \
                                        device const float*, constant PagedParams&, uint2, uint, uint);
#define MM_PAGED(T, Cache)                                                                                           \
  template [[host_name("store_kv_" #T "_" #Cache)]] [[kernel]] void store_kv<T, Cache>(                              \
      device const T*, device const T*, device Cache*, device Cache*, device const int*, device const int*,          \
      device const int*, constant PagedParams&, uint3);                                                              \
  MM_PAGED_PARTS(T, Cache, 2)                                                                                        \
  MM_PAGED_PARTS(T, Cache, 4)                                                                                        \
  MM_PAGED_PARTS(T, Cache, 8)
MM_PAGED(float, float)
MM_PAGED(float, half)
MM_PAGED(float, bfloat)
MM_PAGED(half, half)
MM_PAGED(bfloat, bfloat)
