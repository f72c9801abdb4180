// Attention over a paged key-value cache: prefill and decode alike, each query its own
// position. Cache: [pages][kv heads][tokens of a page] rows of a key, and of a value; or
// latents alone, of which the first value_dim elements are the value. Where one threadgroup
// for a query's keys is too few, they are cut into splits that paged_reduce puts together.
#include "common/paged_attention_params.h"
#include "common/register_budget.h"
#include "common/tile_attention.h"
#include "common/unroll.h"

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
  follow_earlier_kernels();
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

// One threadgroup a token, a split of its keys and up to kHeads heads that share them. Grid:
// (kv heads times their groups of heads, tokens, splits). With splits, `partial` takes
// [token][head][split] of value_dim sums, the largest score and the sum of weights.
template <typename T, typename Rows, typename Shape, int kHeads>
[[kernel, max_total_threads_per_threadgroup(128)]] void paged_attention(
    device const T* q [[buffer(0)]], device const uchar* keys [[buffer(1)]], device const uchar* values [[buffer(2)]],
    device T* out [[buffer(3)]], device const int* tables [[buffer(4)]], device const int* sequences [[buffer(5)]],
    device const int* positions [[buffer(6)]], device const float* sinks [[buffer(7)]],
    device float* partial [[buffer(8)]], constant PagedParams& p [[buffer(9)]],
    uint3 group [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  threadgroup AttentionShare<Shape> share;
  follow_earlier_kernels();
  const uint of_kv = p.heads / p.kv_heads, groups = (of_kv + kHeads - 1) / kHeads;
  const uint kv_head = group.x / groups, token = group.y, split = group.z;
  const uint first_head = kv_head * of_kv + group.x % groups * kHeads;
  const uint heads = min(uint(kHeads), of_kv - group.x % groups * kHeads);
  const PagedKeys where = {p,         tables + ulong(sequences[token]) * p.table_stride,     kv_head,     p.key_dim,
                           p.key_dim, 0, p.value_dim, p.latent != 0 ? p.key_dim : p.value_dim};
  const uint seen_end = uint(positions[token]) + 1;
  const uint seen_begin = p.window != 0 && seen_end > p.window ? seen_end - p.window : 0;
  const uint split_keys = max(p.split_keys, (seen_end - seen_begin + p.splits - 1) / p.splits);
  const uint begin = min(seen_begin + split * split_keys, seen_end), end = min(begin + split_keys, seen_end);
  Query<Shape> query[kHeads];
  Attended<Shape> a[kHeads];
  MM_UNROLL for (uint h = 0; h < uint(kHeads); ++h) {
    // Heads past the last repeat it.
    const uint head = first_head + min(h, heads - 1);
    query[h] = load_query<Shape>(q + ulong(token) * p.q_stride + head * p.key_dim, p.key_dim, lane);
    a[h] = nothing_attended<Shape>();
  }
  attend<Rows, Shape, kHeads>(a, query, keys, values, where, {p.scale, p.soft_cap}, (device const float*)nullptr, begin,
                              end, simdgroup, lane);
  MM_UNROLL for (uint h = 0; h < uint(kHeads); ++h) {
    if (h >= heads) continue;
    const uint head = first_head + h;
    share_attended(share, a[h], simdgroup, lane);
    if (p.splits > 1) {
      const AttendedTotal t = attended_total(share, -INFINITY);
      device float* to = partial + ((ulong(token) * p.heads + head) * p.splits + split) * (p.value_dim + 2);
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

// ---- the same on the matrix units, for caches of half or bfloat: up to 8 heads that share keys are the
// tokens of tiles, a tile's rows are 16 keys, then 16 elements of values

constant constexpr uint kHeadTokens = 8;
constant constexpr uint kKeyRows = 16;

// Eight neighbours of a row, zeros past its end.
template <typename T>
METAL_FUNC uint4 eight_of(device const T* row, uint e, uint width) {
  return e < width ? *(device const uint4*)(row + e) : uint4(0);
}
template <typename T>
METAL_FUNC vec<T, 2> pair_of(uint bits) {
  return as_type<vec<T, 2>>(bits);
}

// Scores of 16 keys, times log2(e); those from `count` on are none.
METAL_FUNC void finish_scores(thread TileSums& scores, constant PagedParams& p, uint count, uint lane) {
  MM_UNROLL for (uint n = 0; n < 4; ++n) {
    float score = scores.e[n] * p.scale;
    if (p.soft_cap != 0.0f) score = p.soft_cap * precise::tanh(score / p.soft_cap);
    scores.e[n] = tile_row(lane) + 8 * (n / 2) < count ? score * kLog2E : -INFINITY;
  }
}

// Some units of 16 keys, or of their values, on their way: pieces of 8 elements of the keys of rows r and
// r + 8, and of the values of keys c, c + 1, c + 8 and c + 9.
template <int kLoaded>
struct KeyPieces {
  uint4 keys[2 * kLoaded][2];
};
template <int kLoaded>
struct ValuePieces {
  uint4 values[kLoaded][4];
};
// The 16 keys from `first` on of a sequence; past the last they repeat it.
struct KeyTile {
  constant PagedParams& p;
  device const int* table;
  uint kv_head, first, last, lane;

  template <int kLoaded, typename T>
  METAL_FUNC KeyPieces<kLoaded> load_keys(device const T* keys, uint unit) const {
    KeyPieces<kLoaded> pieces;
    MM_UNROLL for (uint h = 0; h < 2; ++h) {
      device const T* const row =
          keys + cache_row(p, table, min(first + tile_row(lane) + 8 * h, last), kv_head) * p.key_dim;
      MM_UNROLL for (uint i = 0; i < 2 * uint(kLoaded); ++i)
        pieces.keys[i][h] = eight_of(row, 64 * unit + 32 * i + tile_column(lane) * 4, p.key_dim);
    }
    return pieces;
  }
  template <int kLoaded, typename T>
  METAL_FUNC ValuePieces<kLoaded> load_values(device const T* values, uint unit) const {
    ValuePieces<kLoaded> pieces;
    MM_UNROLL for (uint n = 0; n < 4; ++n) {
      const uint key = min(first + tile_column(lane) + n % 2 + n / 2 * 8, last);
      device const T* const row = values + cache_row(p, table, key, kv_head) * p.value_dim;
      MM_UNROLL for (uint i = 0; i < uint(kLoaded); ++i)
        pieces.values[i][n] = eight_of(row, kUnit * (unit + i) + 8 * tile_row(lane), p.value_dim);
    }
    return pieces;
  }
};

// The splits that simdgroups found, as many heads at a time as there is room for.
template <int kUnits>
struct HeadShare {
  static constant constexpr uint kHeads = kUnits > 2 ? 4 : 8;
  float sums[kAttentionSimdgroups][kHeads][kUnits * kUnit];
  float top[kAttentionSimdgroups][kHeadTokens];
  float total[kAttentionSimdgroups][kHeadTokens];
};

// As paged_attention. Grid: (kv heads times their groups of 8 heads, tokens, splits).
template <typename Q, typename T, int kUnits>
[[kernel, max_total_threads_per_threadgroup(128)]] void paged_matrix_attention(
    device const Q* q [[buffer(0)]], device const T* keys [[buffer(1)]], device const T* values [[buffer(2)]],
    device Q* out [[buffer(3)]], device const int* tables [[buffer(4)]], device const int* sequences [[buffer(5)]],
    device const int* positions [[buffer(6)]], device const float* sinks [[buffer(7)]],
    device float* partial [[buffer(8)]], constant PagedParams& p [[buffer(9)]],
    threadgroup uchar* tile_memory [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  constexpr PagedTile kForm = paged_tile(kUnits, kThreadRegisters);
  MM_WITHIN_REGISTERS(paged_registers(kUnits, kForm));
  constexpr bool kAhead = kForm.loads_ahead, kKeeps = kForm.keeps_queries;
  constexpr int kLoaded = kAhead ? kUnits : 1;
  threadgroup HeadShare<kUnits> share;
  threadgroup uint4 kept_queries[kKeeps ? 1 : kUnits * kUnitTiles * kTileTokenBytes / 16];
  follow_earlier_kernels();
  const TileStage tiles = {tile_memory + simdgroup * kTileStageBytes, lane};
  const uint of_kv = p.heads / p.kv_heads, groups = (of_kv + kHeadTokens - 1) / kHeadTokens;
  const uint kv_head = group.x / groups, token = group.y, split = group.z;
  const uint first_head = kv_head * of_kv + group.x % groups * kHeadTokens;
  const uint heads = min(kHeadTokens, of_kv - group.x % groups * kHeadTokens);
  device const int* const table = tables + ulong(sequences[token]) * p.table_stride;
  const uint seen_end = uint(positions[token]) + 1;
  const uint seen_begin = p.window != 0 && seen_end > p.window ? seen_end - p.window : 0;
  const uint split_keys = max(p.split_keys, (seen_end - seen_begin + p.splits - 1) / p.splits);
  const uint begin = min(seen_begin + split * split_keys, seen_end), end = min(begin + split_keys, seen_end);
  TileTokens<T> queries[kKeeps ? kUnits * kUnitTiles : 1];
  threadgroup T* const query_tiles = (threadgroup T*)kept_queries;
  MM_UNROLL for (uint tile = 0; tile < kUnits * kUnitTiles; ++tile) {
    if (!kKeeps && tile % kAttentionSimdgroups != simdgroup) continue;
    vec<T, 2> pairs[2];
    MM_UNROLL for (uint h = 0; h < 2; ++h) {
      MM_UNROLL for (uint e = 0; e < 2; ++e) {
        // Heads past the last repeat it.
        const uint head = first_head + min(token_of(lane, e), heads - 1);
        const uint k = tile / kUnitTiles * kUnit + spread_input(tile % kUnitTiles, 8 * h + token_input(lane, e));
        pairs[h][e] = k < p.key_dim ? T(q[ulong(token) * p.q_stride + head * p.key_dim + k]) : T(0.0f);
      }
    }
    if (kKeeps) {
      queries[kKeeps ? tile : 0] = tokens_from<T>(pairs, tiles);
    } else {
      keep_tokens(query_tiles + tile * kTileTokenElements, pairs, lane);
    }
  }
  if (!kKeeps) threadgroup_barrier(mem_flags::mem_threadgroup);
  TileSums sums[kUnits * kUnitTiles];
  MM_UNROLL for (uint i = 0; i < kUnits * kUnitTiles; ++i) sums[i] = no_sums();
  SoftmaxState seen = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
#pragma clang loop unroll(disable)
  for (uint first = begin + simdgroup * kKeyRows; first < end; first += kAttentionSimdgroups * kKeyRows) {
    const KeyTile key_tile = {p, table, kv_head, first, end - 1, lane};
    KeyPieces<kLoaded> key_pieces;
    ValuePieces<kLoaded> value_pieces;
    if (kAhead) {
      key_pieces = key_tile.template load_keys<kLoaded>(keys, 0);
      value_pieces = key_tile.template load_values<kLoaded>(values, 0);
    }
    TileSums scores[1] = {no_sums()};
    MM_UNROLL for (uint tile = 0; tile < kUnits * kUnitTiles; ++tile) {
      if (!kAhead && tile % kUnitTiles == 0) key_pieces = key_tile.template load_keys<kLoaded>(keys, tile / kUnitTiles);
      const uint piece = kAhead ? tile / 2 : tile % kUnitTiles / 2;
      TileWeights<T> k;
      MM_UNROLL for (uint n = 0; n < 4; ++n) k.e[n] = pair_of<T>(key_pieces.keys[piece][n % 2][tile % 2 * 2 + n / 2]);
      tile_multiply(scores[0], k,
                    kKeeps ? queries[kKeeps ? tile : 0] : kept_tokens<T>(query_tiles + tile * kTileTokenElements, lane),
                    tiles);
    }
    finish_scores(scores[0], p, end - first, lane);
    const float2 keep = weigh<false>(scores, 1.0f, seen);
    if (simd_any(keep.x != 1.0f || keep.y != 1.0f)) {
      MM_UNROLL for (uint i = 0; i < kUnits * kUnitTiles; ++i)
        MM_UNROLL for (uint n = 0; n < 4; ++n) sums[i].e[n] *= keep[n % 2];
    }
    const TileTokens<T> weights = tokens_from<T>(scores[0], tiles);
    MM_UNROLL for (uint i = 0; i < kUnits * kUnitTiles; ++i) {
      // Elements 2 j of each lane's eight in rows r, 2 j + 1 in rows r + 8.
      const uint j = i % kUnitTiles, unit = kAhead ? i / kUnitTiles : 0;
      if (!kAhead && j == 0) value_pieces = key_tile.template load_values<kLoaded>(values, i / kUnitTiles);
      TileWeights<T> v;
      MM_UNROLL for (uint h = 0; h < 2; ++h) {
        const uint a = value_pieces.values[unit][2 * h][j], b = value_pieces.values[unit][2 * h + 1][j];
        v.e[2 * h] = pair_of<T>((a & 0xFFFFu) | b << 16);
        v.e[2 * h + 1] = pair_of<T>(a >> 16 | (b & 0xFFFF0000u));
      }
      tile_multiply(sums[i], v, weights, tiles);
    }
  }
  MM_UNROLL for (uint j = 0; j < 2; ++j) {
    const float total = column_sum(seen.total[j]);
    if (tile_row(lane) == 0) {
      share.top[simdgroup][tile_column(lane) + j] = seen.top[j];
      share.total[simdgroup][tile_column(lane) + j] = total;
    }
  }
  for (uint round = 0; round < heads; round += HeadShare<kUnits>::kHeads) {
    if (round != 0) threadgroup_barrier(mem_flags::mem_threadgroup);  // the share is read
    MM_UNROLL for (uint j = 0; j < 2; ++j) {
      const uint h = tile_column(lane) + j - round;
      if (h >= HeadShare<kUnits>::kHeads) continue;
      MM_UNROLL for (uint i = 0; i < kUnits * kUnitTiles; ++i) {
        MM_UNROLL for (uint n = 0; n < 2; ++n)
          share.sums[simdgroup][h][i / kUnitTiles * kUnit + 8 * tile_row(lane) + i % kUnitTiles * 2 + n] =
              sums[i].e[2 * n + j];
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const uint count = min(HeadShare<kUnits>::kHeads, heads - round);
#pragma clang loop unroll(disable)
    for (uint i = simdgroup * 32 + lane; i < count * p.value_dim; i += 32 * kAttentionSimdgroups) {
      const uint h = i / p.value_dim, e = i % p.value_dim, head = first_head + round + h;
      const float sink = p.sinks != 0 && p.splits == 1 ? sinks[head] * kLog2E : -INFINITY;
      float top = sink;
      MM_UNROLL for (uint s = 0; s < kAttentionSimdgroups; ++s) top = max(top, share.top[s][round + h]);
      const float from = top == -INFINITY ? 0.0f : top;
      float total = fast::exp2(sink - from), sum = 0.0f;
      MM_UNROLL for (uint s = 0; s < kAttentionSimdgroups; ++s) {
        const float factor = fast::exp2(share.top[s][round + h] - from);
        total = fma(factor, share.total[s][round + h], total);
        sum = fma(factor, share.sums[s][h][e], sum);
      }
      if (p.splits > 1) {
        device float* to = partial + ((ulong(token) * p.heads + head) * p.splits + split) * (p.value_dim + 2);
        to[e] = sum;
        if (e == 0) {
          to[p.value_dim] = top / kLog2E;
          to[p.value_dim + 1] = total;
        }
      } else {
        out[ulong(token) * p.out_stride + head * p.value_dim + e] = Q(top == -INFINITY ? 0.0f : sum / total);
      }
    }
  }
}

// Grid: (value_dim, heads, tokens).
template <typename T>
[[kernel]] void paged_reduce(device const float* partial [[buffer(0)]], device T* out [[buffer(1)]],
                             device const float* sinks [[buffer(2)]], constant PagedParams& p [[buffer(3)]],
                             uint3 at [[thread_position_in_grid]]) {
  follow_earlier_kernels();
  const uint stride = p.value_dim + 2;
  device const float* from = partial + (ulong(at.z) * p.heads + at.y) * p.splits * stride;
  const float sink = p.sinks != 0 ? sinks[at.y] : -INFINITY;
  float top = sink;
  for (uint split = 0; split < p.splits; ++split) top = max(top, from[split * stride + p.value_dim]);
  float total = sink == -INFINITY ? 0.0f : exp(sink - top), sum = 0.0f;
  for (uint split = 0; split < p.splits && top != -INFINITY; ++split) {
    const float factor = exp(from[split * stride + p.value_dim] - top);
    total = fma(factor, from[split * stride + p.value_dim + 1], total);
    sum = fma(factor, from[split * stride + at.x], sum);
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
#define MM_PAGED_MATRIX(Q, T, width, units, resident)                                                                 \
  template [[host_name("paged_matrix_attention_" #Q "_" #T "_" #width)]]                                              \
  [[kernel, max_total_threads_per_threadgroup(128) MM_RESIDENT(resident)]]                                            \
  void paged_matrix_attention<Q, T, units>(device const Q*, device const T*, device const T*, device Q*,              \
                                           device const int*, device const int*, device const int*,                   \
                                           device const float*, device float*, constant PagedParams&,                 \
                                           threadgroup uchar*, uint3, uint, uint);
#define MM_PAGED_MATRICES(Q, T)        \
  MM_PAGED_MATRIX(Q, T, 64, 1, 16)     \
  MM_PAGED_MATRIX(Q, T, 128, 2, 16)    \
  MM_PAGED_MATRIX(Q, T, 256, 4, 8)
MM_PAGED_MATRICES(float, half)
MM_PAGED_MATRICES(float, bfloat)
MM_PAGED_MATRICES(half, half)
MM_PAGED_MATRICES(bfloat, bfloat)
