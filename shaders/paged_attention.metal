// Attention over a paged key-value cache: prefill and decode alike, each query its own
// position. Cache: [pages][kv heads][tokens of a page] rows of a key, and of a value; or
// latents alone, of which the first value_dim elements are the value. Where one threadgroup
// for a query's keys is too few, they are cut into parts that paged_reduce puts together.
#include "common/attention.h"
#include "common/tile_multiply.h"

struct PagedParams {
  uint heads;
  uint kv_heads;
  uint key_dim;
  uint value_dim;
  uint latent;        // a key holds its value
  uint page_shift;    // log2 of a page's tokens
  uint table_stride;  // pages of a sequence in the table
  uint q_stride;      // elements between tokens
  uint k_stride;
  uint v_stride;
  uint out_stride;
  uint window;        // keys that a query sees, itself included; 0: all
  uint parts;         // that keys are cut into
  uint part_keys;     // at least so many in each
  float scale;
  float soft_cap;     // scores become cap * tanh(score / cap); 0: none
  uint sinks;         // whether heads have one
};

// The row of a token among the cache's keys, or values.
METAL_FUNC ulong cache_row(constant PagedParams& p, device const int* table, uint position, uint kv_head) {
  const ulong page = ulong(table[position >> p.page_shift]);
  return ((page * p.kv_heads + kv_head) << p.page_shift) + (position & ((1u << p.page_shift) - 1u));
}

// Puts the keys and values of new tokens into the cache. One simdgroup 32 elements: grid
// (groups of 32 of the wider of both, kv heads, tokens).
template <typename T, typename Rows>
[[kernel, max_total_threads_per_threadgroup(32)]] void store_kv(
    device const T* k [[buffer(0)]], device const T* v [[buffer(1)]], device uchar* keys [[buffer(2)]],
    device uchar* values [[buffer(3)]], device const int* tables [[buffer(4)]],
    device const int* sequences [[buffer(5)]], device const int* positions [[buffer(6)]],
    constant PagedParams& p [[buffer(7)]], uint3 at [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]]) {
  device const int* table = tables + ulong(sequences[at.z]) * p.table_stride;
  const ulong row = cache_row(p, table, uint(positions[at.z]), at.y);
  const uint e = 32 * at.x + lane;
  if (32 * at.x < p.key_dim) {
    const float x = e < p.key_dim ? float(k[ulong(at.z) * p.k_stride + at.y * p.key_dim + e]) : 0.0f;
    Rows::store(keys, row, p.key_dim, at.x, x, lane);
  }
  if (p.latent == 0 && 32 * at.x < p.value_dim) {
    const float x = e < p.value_dim ? float(v[ulong(at.z) * p.v_stride + at.y * p.value_dim + e]) : 0.0f;
    Rows::store(values, row, p.value_dim, at.x, x, lane);
  }
}

// Rows of one sequence and key head, as attend() takes them.
struct PagedKeys {
  constant PagedParams& p;
  device const int* table;
  uint kv_head;
  uint width, key_width, key_offset, value_width, value_row_width;
  METAL_FUNC ulong key_row(uint key) const { return cache_row(p, table, key, kv_head); }
  METAL_FUNC ulong value_row(uint key) const { return key_row(key); }
};

// One threadgroup a token, a part of its keys and up to kHeads heads that share them. Grid:
// (kv heads times their groups of heads, tokens, parts). With parts, `partial` takes
// [token][head][part] of value_dim sums, the largest score and the sum of weights.
template <typename T, typename Rows, typename Shape, int kHeads>
[[kernel, max_total_threads_per_threadgroup(128)]] void paged_attention(
    device const T* q [[buffer(0)]], device const uchar* keys [[buffer(1)]], device const uchar* values [[buffer(2)]],
    device T* out [[buffer(3)]], device const int* tables [[buffer(4)]], device const int* sequences [[buffer(5)]],
    device const int* positions [[buffer(6)]], device const float* sinks [[buffer(7)]],
    device float* partial [[buffer(8)]], constant PagedParams& p [[buffer(9)]],
    uint3 group [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  threadgroup AttentionShare<Shape> share;
  const uint of_kv = p.heads / p.kv_heads, groups = (of_kv + kHeads - 1) / kHeads;
  const uint kv_head = group.x / groups, token = group.y, part = group.z;
  const uint first_head = kv_head * of_kv + group.x % groups * kHeads;
  const uint heads = min(uint(kHeads), of_kv - group.x % groups * kHeads);
  const PagedKeys where = {p,         tables + ulong(sequences[token]) * p.table_stride,     kv_head,     p.key_dim,
                           p.key_dim, 0, p.value_dim, p.latent != 0 ? p.key_dim : p.value_dim};
  const uint seen_end = uint(positions[token]) + 1;
  const uint seen_begin = p.window != 0 && seen_end > p.window ? seen_end - p.window : 0;
  const uint part_keys = max(p.part_keys, (seen_end - seen_begin + p.parts - 1) / p.parts);
  const uint begin = min(seen_begin + part * part_keys, seen_end), end = min(begin + part_keys, seen_end);
  Query<Shape> query[kHeads];
  Attended<Shape> a[kHeads];
  for (uint h = 0; h < uint(kHeads); ++h) {
    // Heads past the last repeat it.
    const uint head = first_head + min(h, heads - 1);
    query[h] = load_query<Shape>(q + ulong(token) * p.q_stride + head * p.key_dim, p.key_dim, lane);
    a[h] = nothing_attended<Shape>();
  }
  attend<Rows, Shape, kHeads>(a, query, keys, values, where, {p.scale, p.soft_cap}, (device const float*)nullptr, begin,
                              end, simdgroup, lane);
  for (uint h = 0; h < uint(kHeads); ++h) {
    if (h >= heads) continue;
    const uint head = first_head + h;
    share_attended(share, a[h], simdgroup, lane);
    if (p.parts > 1) {
      const AttendedTotal t = attended_total(share, -INFINITY);
      device float* to = partial + ((ulong(token) * p.heads + head) * p.parts + part) * (p.value_dim + 2);
#pragma clang loop unroll(disable)
      for (uint e = simdgroup * 32 + lane; e < p.value_dim; e += 32 * kAttentionSimdgroups)
        to[e] = attended_sum(share, t, e);
      if (simdgroup == 0 && lane == 0) {
        to[p.value_dim] = t.top;
        to[p.value_dim + 1] = t.total;
      }
    } else {
      const float sink = p.sinks != 0 ? sinks[head] : -INFINITY;
#pragma clang loop unroll(disable)
      for (uint e = simdgroup * 32 + lane; e < p.value_dim; e += 32 * kAttentionSimdgroups)
        out[ulong(token) * p.out_stride + head * p.value_dim + e] = T(attended_element(share, sink, e));
    }
    if (h + 1 < uint(kHeads)) threadgroup_barrier(mem_flags::mem_threadgroup);  // the share is read
  }
}

// Grid: (value_dim, heads, tokens).
template <typename T>
[[kernel]] void paged_reduce(device const float* partial [[buffer(0)]], device T* out [[buffer(1)]],
                             device const float* sinks [[buffer(2)]], constant PagedParams& p [[buffer(3)]],
                             uint3 at [[thread_position_in_grid]]) {
  if (at.x >= p.value_dim) return;
  const uint stride = p.value_dim + 2;
  device const float* from = partial + (ulong(at.z) * p.heads + at.y) * p.parts * stride;
  const float sink = p.sinks != 0 ? sinks[at.y] : -INFINITY;
  float top = sink;
  for (uint part = 0; part < p.parts; ++part) top = max(top, from[part * stride + p.value_dim]);
  float total = sink == -INFINITY ? 0.0f : exp(sink - top), sum = 0.0f;
  for (uint part = 0; part < p.parts && top != -INFINITY; ++part) {
    const float factor = exp(from[part * stride + p.value_dim] - top);
    total = fma(factor, from[part * stride + p.value_dim + 1], total);
    sum = fma(factor, from[part * stride + at.x], sum);
  }
  out[ulong(at.z) * p.out_stride + at.y * p.value_dim + at.x] = T(top == -INFINITY ? 0.0f : sum / total);
}

#define MM_PAGED_FOR(T, cache, Rows, width, heads)                                                                    \
  template [[host_name("paged_attention_" #T "_" #cache "_" #width "_" #heads)]]                                      \
  [[kernel, max_total_threads_per_threadgroup(128) MM_RESIDENT(8)]] void paged_attention<T, Rows, Head##width, heads>( \
      device const T*, device const uchar*, device const uchar*, device T*, device const int*, device const int*,     \
      device const int*, device const float*, device float*, constant PagedParams&, uint3, uint, uint);
#define MM_PAGED_SHAPE(T, cache, Rows, width) \
  MM_PAGED_FOR(T, cache, Rows, width, 1)      \
  MM_PAGED_FOR(T, cache, Rows, width, 4)
#define MM_PAGED(T, cache, Rows)                                                                                      \
  template [[host_name("store_kv_" #T "_" #cache)]] [[kernel, max_total_threads_per_threadgroup(32)]]                 \
  void store_kv<T, Rows>(device const T*, device const T*, device uchar*, device uchar*, device const int*,           \
                         device const int*, device const int*, constant PagedParams&, uint3, uint);                   \
  MM_PAGED_SHAPE(T, cache, Rows, 64)                                                                                  \
  MM_PAGED_SHAPE(T, cache, Rows, 128)                                                                                 \
  MM_PAGED_SHAPE(T, cache, Rows, 256)                                                                                 \
  MM_PAGED_SHAPE(T, cache, Rows, 640)
#define MM_REDUCE(T)                                                                                            \
  template [[host_name("paged_reduce_" #T)]] [[kernel]] void paged_reduce<T>(device const float*, device T*,    \
                                                                             device const float*,               \
                                                                             constant PagedParams&, uint3);
MM_REDUCE(float)
MM_REDUCE(half)
MM_REDUCE(bfloat)
MM_PAGED(float, float, NumberRows<float>)
MM_PAGED(float, half, NumberRows<half>)
MM_PAGED(float, bfloat, NumberRows<bfloat>)
MM_PAGED(half, half, NumberRows<half>)
MM_PAGED(bfloat, bfloat, NumberRows<bfloat>)
MM_PAGED(float, int8, Int8Rows)
MM_PAGED(float, int4, Int4Rows)
MM_PAGED(float, fp8, Fp8Rows)
MM_PAGED(float, fp4, Fp4Rows)
