// Prefill in f32: a threadgroup answers a tile of queries, keys and values pass once through
// threadgroup memory for all of them (arXiv 2307.08691). Any kind of cache, packed, which may be
// block-sparse, or in pages.
#include "common/kv_rows.h"
#include "common/unroll.h"

// kKeys: of a tile; kQueries: of a simdgroup; kWidth: of a head, at most.
template <int kTileWidth, int kTileKeys, int kSimdQueries>
struct FlashTile {
  static constant constexpr uint kWidth = kTileWidth;
  static constant constexpr uint kKeys = kTileKeys;
  static constant constexpr uint kQueries = kSimdQueries;
  static constant constexpr uint kStride = kTileWidth + 4;  // spreads keys over the banks
  static constant constexpr uint kSplit = 32 / kTileKeys;   // lanes that share a key's score
  static constant constexpr uint kElements = kTileWidth / 32;  // of the sum, a lane
};
typedef FlashTile<64, 32, 8> FlashTile64;
typedef FlashTile<128, 32, 4> FlashTile128;
typedef FlashTile<256, 16, 2> FlashTile256;
typedef FlashTile<640, 8, 1> FlashTile640;

template <typename Tile>
struct FlashMemory {
  float rows[Tile::kKeys][Tile::kStride];  // keys, then values
  float q[kAttentionSimdgroups * Tile::kQueries][Tile::kWidth];
  float weights[kAttentionSimdgroups * Tile::kQueries][Tile::kKeys];
};

// Keys [first, first + kKeys) of the sequence, zeros past its last.
template <typename Rows, typename Tile, typename Where>
METAL_FUNC void load_rows(threadgroup FlashMemory<Tile>& m, device const uchar* rows, QueryTile t, Where where,
                          uint first, uint width, uint index) {
  for (uint i = index; i < Tile::kKeys * (Tile::kWidth / 4); i += 32 * kAttentionSimdgroups) {
    const uint key = i / (Tile::kWidth / 4), e = i % (Tile::kWidth / 4) * 4;
    float4 v = float4(0.0f);
    if (first + key < t.keys && e < width) {
      const ulong row = where.row(first + key);
      v = width % 4 == 0 ? Rows::template load<true>(rows, row, width, e) : Rows::template load<false>(rows, row, width, e);
    }
    *(threadgroup float4*)&m.rows[key][e] = v;
  }
}

// q, out: of the head, from the tile's first query on, `q_stride` and `out_stride` elements apart.
template <typename T, typename Rows, typename Tile, typename Where>
METAL_FUNC void answer_tile(threadgroup FlashMemory<Tile>& m, constant TiledParams& tp, QueryTile t, Where where,
                            uint head, device const T* q, uint q_stride, device const uchar* keys,
                            device const uchar* values, device T* out, uint out_stride, device const float* mask,
                            device const float* sinks, device const uchar* blocks, uint simdgroup, uint lane) {
  constant PackedParams& p = tp.packed;
  const uint index = simdgroup * 32 + lane;
  for (uint i = index; i < kAttentionSimdgroups * Tile::kQueries * Tile::kWidth; i += 32 * kAttentionSimdgroups) {
    const uint row = i / Tile::kWidth, e = i % Tile::kWidth;
    const bool there = row < t.count && e < p.key_width;
    m.q[row][e] = there ? float(q[ulong(row) * q_stride + e]) : 0.0f;
  }
  float top[Tile::kQueries], total[Tile::kQueries], sum[Tile::kQueries][Tile::kElements];
  const float sink = p.sinks != 0 ? sinks[head] : -INFINITY;
  MM_UNROLL for (uint r = 0; r < Tile::kQueries; ++r) {
    top[r] = sink;
    total[r] = sink == -INFINITY ? 0.0f : 1.0f;
    MM_UNROLL for (uint i = 0; i < Tile::kElements; ++i) sum[r][i] = 0.0f;
  }
  const uint my_key = lane % Tile::kKeys, part = lane / Tile::kKeys, first_row = simdgroup * Tile::kQueries;
  const KeyRange all = keys_of_tile(p, t);
#pragma clang loop unroll(disable)
  for (uint first = all.begin / Tile::kKeys * Tile::kKeys; first < all.end; first += Tile::kKeys) {
    if (!any_in_block(tp, blocks, t.first, t.first + t.count - 1, first, min(first + Tile::kKeys, all.end))) continue;
    threadgroup_barrier(mem_flags::mem_threadgroup);  // queries are there, values of the last tile read
    load_rows<Rows, Tile>(m, keys, t, where, first, p.key_width, index);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float score[Tile::kQueries];
    MM_UNROLL for (uint r = 0; r < Tile::kQueries; ++r) score[r] = 0.0f;
#pragma clang loop unroll_count(4)
    for (uint e = 4 * part; e < p.key_width; e += 4 * Tile::kSplit) {
      const float4 k = *(threadgroup const float4*)&m.rows[my_key][e];
      MM_UNROLL for (uint r = 0; r < Tile::kQueries; ++r)
        score[r] += dot(*(threadgroup const float4*)&m.q[first_row + r][e], k);
    }
    const uint key = first + my_key;
    MM_UNROLL for (uint r = 0; r < Tile::kQueries; ++r) {
      MM_UNROLL for (ushort step = Tile::kKeys; step < 32; step *= 2) score[r] += simd_shuffle_xor(score[r], step);
      const uint i = min(t.first + first_row + r, t.first + t.count - 1);
      const KeyRange seen = keys_of(p, t, i);
      float s = final_score(score[r], {p.scale, p.soft_cap});
      if (key < seen.begin || key >= seen.end || !in_block(tp, blocks, i, key)) {
        s = -INFINITY;
      } else if (p.mask_stride != 0) {
        s += mask[ulong(t.first_query + i) * p.mask_stride + key];
      }
      const float now = max(top[r], simd_max(s));
      const float weight = now == -INFINITY ? 0.0f : weight_of(s - now);
      const float keep = now == top[r] ? 1.0f : weight_of(top[r] - now);
      total[r] = total[r] * keep + simd_sum(part == 0 ? weight : 0.0f);
      top[r] = now;
      MM_UNROLL for (uint j = 0; j < Tile::kElements; ++j) sum[r][j] *= keep;
      if (part == 0) m.weights[first_row + r][my_key] = weight;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    load_rows<Rows, Tile>(m, values, t, where, first, p.value_width, index);
    threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma clang loop unroll_count(4)
    for (uint k = 0; k < Tile::kKeys; ++k) {
      MM_UNROLL for (uint j = 0; j < Tile::kElements; ++j) {
        const float v = m.rows[k][lane + 32 * j];
        MM_UNROLL for (uint r = 0; r < Tile::kQueries; ++r) sum[r][j] = fma(m.weights[first_row + r][k], v, sum[r][j]);
      }
    }
  }
  MM_UNROLL for (uint r = 0; r < Tile::kQueries; ++r) {
    if (first_row + r >= t.count) continue;
    device T* const to = out + ulong(first_row + r) * out_stride;
    MM_UNROLL for (uint j = 0; j < Tile::kElements; ++j)
      if (lane + 32 * j < p.value_width) to[lane + 32 * j] = T(top[r] == -INFINITY ? 0.0f : sum[r][j] / total[r]);
  }
}

// Grid: (heads, query tiles).
template <typename T, typename Rows, typename Tile>
[[kernel, max_total_threads_per_threadgroup(128)]] void flash_attention_v2(
    device const T* q [[buffer(0)]], device const uchar* keys [[buffer(1)]], device const uchar* values [[buffer(2)]],
    device T* out [[buffer(3)]], device const int* q_starts [[buffer(4)]], device const int* k_starts [[buffer(5)]],
    device const float* mask [[buffer(6)]], device const float* sinks [[buffer(7)]],
    device const uchar* blocks [[buffer(8)]], constant TiledParams& tp [[buffer(9)]],
    uint2 group [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  threadgroup FlashMemory<Tile> m;
  constant PackedParams& p = tp.packed;
  const QueryTile t = query_tile(tp, q_starts, k_starts, group.y, kAttentionSimdgroups * Tile::kQueries);
  if (!t.found) return;
  const ulong row = ulong(t.first_query + t.first) * p.heads + group.x;
  answer_tile<T, Rows, Tile>(m, tp, t, packed_rows(p, t, group.x / (p.heads / p.kv_heads)), group.x,
                             q + row * p.key_width, p.heads * p.key_width, keys, values, out + row * p.value_width,
                             p.heads * p.value_width, mask, sinks, blocks, simdgroup, lane);
}

// The same over pages, of which each sequence's table tells.
template <typename T, typename Rows, typename Tile>
[[kernel, max_total_threads_per_threadgroup(128)]] void flash_paged_attention(
    device const T* q [[buffer(0)]], device const uchar* keys [[buffer(1)]], device const uchar* values [[buffer(2)]],
    device T* out [[buffer(3)]], device const int* q_starts [[buffer(4)]], device const int* k_starts [[buffer(5)]],
    device const int* tables [[buffer(6)]], device const float* sinks [[buffer(7)]],
    constant PageParams& pages [[buffer(8)]], constant TiledParams& tp [[buffer(9)]],
    uint2 group [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  threadgroup FlashMemory<Tile> m;
  constant PackedParams& p = tp.packed;
  const QueryTile t = query_tile(tp, q_starts, k_starts, group.y, kAttentionSimdgroups * Tile::kQueries);
  if (!t.found) return;
  const ulong token = t.first_query + t.first;
  answer_tile<T, Rows, Tile>(m, tp, t, paged_rows(p, pages, tables, t, group.x / (p.heads / p.kv_heads)), group.x,
                             q + token * pages.q_stride + group.x * p.key_width, pages.q_stride, keys, values,
                             out + token * pages.out_stride + group.x * p.value_width, pages.out_stride,
                             (device const float*)nullptr, sinks, (device const uchar*)nullptr, simdgroup, lane);
}

#define MM_FLASH2_FOR(T, cache, Rows, width)                                                                         \
  template [[host_name("flash_attention_v2_" #T "_" #cache "_" #width)]]                                             \
  [[kernel, max_total_threads_per_threadgroup(128)]] void flash_attention_v2<T, Rows, FlashTile##width>(             \
      device const T*, device const uchar*, device const uchar*, device T*, device const int*, device const int*,    \
      device const float*, device const float*, device const uchar*, constant TiledParams&, uint2, uint, uint);
#define MM_FLASH2(T, cache, Rows)      \
  MM_FLASH2_FOR(T, cache, Rows, 64)    \
  MM_FLASH2_FOR(T, cache, Rows, 128)   \
  MM_FLASH2_FOR(T, cache, Rows, 256)   \
  MM_FLASH2_FOR(T, cache, Rows, 640)
MM_FLASH2(float, float, NumberRows<float>)
MM_FLASH2(float, half, NumberRows<half>)
MM_FLASH2(float, bfloat, NumberRows<bfloat>)
MM_FLASH2(half, half, NumberRows<half>)
MM_FLASH2(bfloat, bfloat, NumberRows<bfloat>)
MM_FLASH2(float, int8, Int8Rows)
MM_FLASH2(float, int4, Int4Rows)
MM_FLASH2(float, fp8, Fp8Rows)
MM_FLASH2(float, fp4, Fp4Rows)

// Heads of more than 256 elements are latents', which share their keys already.
#define MM_FLASH_PAGED_FOR(cache, Rows, width)                                                                       \
  template [[host_name("flash_paged_attention_float_" #cache "_" #width)]]                                           \
  [[kernel, max_total_threads_per_threadgroup(128)]] void flash_paged_attention<float, Rows, FlashTile##width>(      \
      device const float*, device const uchar*, device const uchar*, device float*, device const int*,               \
      device const int*, device const int*, device const float*, constant PageParams&, constant TiledParams&, uint2, \
      uint, uint);
#define MM_FLASH_PAGED(cache, Rows)    \
  MM_FLASH_PAGED_FOR(cache, Rows, 64)  \
  MM_FLASH_PAGED_FOR(cache, Rows, 128) \
  MM_FLASH_PAGED_FOR(cache, Rows, 256)
MM_FLASH_PAGED(float, NumberRows<float>)
MM_FLASH_PAGED(half, NumberRows<half>)
MM_FLASH_PAGED(bfloat, NumberRows<bfloat>)
MM_FLASH_PAGED(int8, Int8Rows)
MM_FLASH_PAGED(int4, Int4Rows)
MM_FLASH_PAGED(fp8, Fp8Rows)
MM_FLASH_PAGED(fp4, Fp4Rows)
