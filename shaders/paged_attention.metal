// Attention over a paged key-value cache: prefill and decode alike, each query its own
// position. Cache: [pages][kv heads][tokens of a page][head_dim], keys and values apart.
#include <metal_stdlib>

using namespace metal;

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

constant constexpr uint kAttentionSimdgroups = 4;
constant constexpr uint kPageTokens = 16;

// One threadgroup a query and head: simdgroups take pages in turn, a lane the elements
// lane, lane + 32 ... of a head, and what they found is put together in order.
// kParts: elements of a lane. Grid: (heads, tokens).
template <typename T, typename Cache, int kParts>
[[kernel, max_total_threads_per_threadgroup(128)]] void paged_attention(
    device const T* q [[buffer(0)]], device const Cache* keys [[buffer(1)]], device const Cache* values [[buffer(2)]],
    device T* out [[buffer(3)]], device const int* tables [[buffer(4)]], device const int* sequences [[buffer(5)]],
    device const int* positions [[buffer(6)]], device const float* sinks [[buffer(7)]],
    constant PagedParams& p [[buffer(8)]], uint2 group [[threadgroup_position_in_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float partial[kAttentionSimdgroups][32 * kParts];
  threadgroup float largest[kAttentionSimdgroups], weights[kAttentionSimdgroups];
  const uint head = group.x, token = group.y, kv_head = head / (p.heads / p.kv_heads);
  device const int* table = tables + ulong(sequences[token]) * p.table_stride;
  const uint end = uint(positions[token]) + 1;
  const uint begin = p.window != 0 && end > p.window ? end - p.window : 0;
  float query[kParts], sum[kParts];
  for (uint i = 0; i < uint(kParts); ++i) {
    const uint e = lane + 32 * i;
    query[i] = e < p.head_dim ? float(q[ulong(token) * p.q_stride + head * p.head_dim + e]) : 0.0f;
    sum[i] = 0.0f;
  }
  float top = -INFINITY, total = 0.0f;
  for (uint page = begin / kPageTokens + simdgroup; page * kPageTokens < end; page += kAttentionSimdgroups) {
    const ulong place = cache_place(p, table, page * kPageTokens, kv_head);
    float score = -INFINITY;  // of key `lane` of the page
    for (uint j = 0; j < kPageTokens; ++j) {
      const uint key = page * kPageTokens + j;
      if (key < begin || key >= end) continue;
      float product = 0.0f;
      for (uint i = 0; i < uint(kParts); ++i) {
        const uint e = lane + 32 * i;
        if (e < p.head_dim) product = fma(query[i], float(keys[place + j * p.head_dim + e]), product);
      }
      product = simd_sum(product) * p.scale;
      if (p.soft_cap != 0.0f) product = p.soft_cap * precise::tanh(product / p.soft_cap);
      if (lane == j) score = product;
    }
    const float now = max(top, simd_max(score));
    const float keep = exp(top - now), weight = exp(score - now);
    top = now;
    total = total * keep + simd_sum(weight);
    for (uint i = 0; i < uint(kParts); ++i) sum[i] *= keep;
    for (uint j = 0; j < kPageTokens; ++j) {
      const uint key = page * kPageTokens + j;
      const float w = simd_shuffle(weight, ushort(j));
      if (key < begin || key >= end) continue;
      for (uint i = 0; i < uint(kParts); ++i) {
        const uint e = lane + 32 * i;
        if (e < p.head_dim) sum[i] = fma(w, float(values[place + j * p.head_dim + e]), sum[i]);
      }
    }
  }
  for (uint i = 0; i < uint(kParts); ++i) partial[simdgroup][lane + 32 * i] = sum[i];
  if (lane == 0) {
    largest[simdgroup] = top;
    weights[simdgroup] = total;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const float sink = p.sinks != 0 ? sinks[head] : -INFINITY;
  top = sink;
  for (uint s = 0; s < kAttentionSimdgroups; ++s) top = max(top, largest[s]);
  total = p.sinks != 0 ? exp(sink - top) : 0.0f;
  for (uint s = 0; s < kAttentionSimdgroups; ++s) total += exp(largest[s] - top) * weights[s];
  for (uint e = simdgroup * 32 + lane; e < p.head_dim; e += 32 * kAttentionSimdgroups) {
    float result = 0.0f;
    for (uint s = 0; s < kAttentionSimdgroups; ++s) result = fma(exp(largest[s] - top), partial[s][e], result);
    out[ulong(token) * p.out_stride + head * p.head_dim + e] = T(result / total);
  }
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
