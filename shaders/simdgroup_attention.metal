// Prefill on the matrix units: a simdgroup answers 16 queries, its products with keys and with
// values are tiles of 16x16 by 16x8, probabilities never leave its registers between the two.
// Keys and values in half or bfloat, packed, which may be block-sparse, or in pages; queries alike, or
// rounded to that; heads of up to 192.
#include "common/kv_rows.h"
#include "common/register_budget.h"
#include "common/tile_attention.h"
#include "common/unroll.h"

// A tile of kKeys keys, or of values (kAcross), whose 16 rows are then inputs: [unit of width][row][64].
template <int kUnits, uint kKeys, bool kAcross, typename T, typename Where>
METAL_FUNC void stage_rows(threadgroup T* stage, device const T* rows, Where where, uint width, uint first, uint end,
                           uint index) {
  constexpr uint kStep = 16;  // rows, of which 8 threads each take a piece of 8 elements
  const uint row = index / 8, e = index % 8 * 8;
  const uint place = kAcross ? staged_row_piece(row, index % 8) : staged_piece(row, index % 8);
#pragma clang loop unroll(full)
  for (uint step = 0; step < kKeys; step += kStep) {
    const bool there = first + row + step < end;
    device const T* const from = there ? rows + where.row(first + row + step) * width + e : rows;
#pragma clang loop unroll(full)
    for (uint unit = 0; unit < uint(kUnits); ++unit) {
      threadgroup T* const to = stage + unit * (kKeys * kUnit) + 8 * (place + 8 * step);
      device const T* const piece = from + unit * kUnit;
      if (!there || e + unit * kUnit >= width) {
        *(threadgroup uint4*)to = uint4(0, 0, 0, 0);
      } else if (width % 8 == 0) {
        copy_16_bytes(to, piece);
      } else {
#pragma clang loop unroll(disable)
        for (uint j = 0; j < 8; ++j) to[j] = e + unit * kUnit + j < width ? piece[j] : T(0.0f);
      }
    }
  }
}

// Threadgroup memory of a kernel. kUnits: of 64 elements, that a head has at most.
template <typename T, int kUnits>
struct PrefillMemory {
  static constant constexpr uint kTile = kUnits * prefill_tile(kUnits, kThreadRegisters).keys * kUnit;
  static constant constexpr uint kQueryTiles =
      kAttentionSimdgroups / prefill_tile(kUnits, kThreadRegisters).column_parts;
  static constant constexpr uint kQueries = kQueryTiles * kTileRows;  // of a threadgroup
  uint4 keys[(prefill_tile(kUnits, kThreadRegisters).key_tiles + 1) * kTile / 8];  // and values
  uint4 queries[prefill_tile(kUnits, kThreadRegisters).keeps_queries ? 1 : kQueryTiles * kUnits * kUnitTiles * 32];
};

// q, out: of the head, from the tile's first query on, `q_stride` and `out_stride` elements apart.
template <int kUnits, typename Q, typename T, typename Where>
METAL_FUNC void answer_tile(threadgroup PrefillMemory<T, kUnits>& m, TileStage tiles, constant TiledParams& tp,
                            QueryTile t, Where where, uint head, device const Q* q, uint q_stride,
                            device const T* keys, device const T* values, device Q* out, uint out_stride,
                            device const float* mask, device const float* sinks, device const uchar* blocks,
                            uint simdgroup, uint lane) {
  constexpr PrefillTile kForm = prefill_tile(kUnits, kThreadRegisters);
  MM_WITHIN_REGISTERS(prefill_registers(kUnits, kForm));
  constexpr uint kTileKeys = kForm.keys, kKeyTiles = kForm.key_tiles, kTile = kUnits * kTileKeys * kUnit;
  constexpr uint kParts = kForm.column_parts;
  constexpr bool kKeeps = kForm.keeps_queries;
  constexpr uint kWidthTiles = kUnits * kUnitTiles, kOurTiles = kWidthTiles / kParts, kScores = kTileKeys / 8;
  threadgroup T* const stage = (threadgroup T*)m.keys;
  constant PackedParams& p = tp.packed;
  const uint index = simdgroup * 32 + lane;
  const uint query_tile_index = simdgroup / kParts, first_row = query_tile_index * kTileRows + tile_row(lane);
  const uint first_tile = simdgroup % kParts * kOurTiles;  // of values' elements
  const uint column = tile_column(lane);
  // Rows r and r + 8 of this simdgroup's queries; past the last they repeat it.
  uint query[2];  // of the sequence's
  MM_UNROLL for (uint h = 0; h < 2; ++h) query[h] = t.first + min(first_row + 8 * h, t.count - 1);
  TileWeights<T> q_tiles[kKeeps ? kWidthTiles : 1];
  threadgroup uint4* const our_queries = m.queries + (kKeeps ? 0 : query_tile_index * (kWidthTiles * 32) + lane);
  MM_UNROLL for (uint tile = 0; tile < kWidthTiles; ++tile) {
    if (!kKeeps && tile % kParts != simdgroup % kParts) continue;
    thread TileWeights<T>& q_tile = q_tiles[kKeeps ? tile : 0];
    MM_UNROLL for (uint n = 0; n < 4; ++n) {
      device const Q* from = q + ulong(query[n % 2] - t.first) * q_stride;
      MM_UNROLL for (uint e = 0; e < 2; ++e) {
        const uint k = tile / kUnitTiles * kUnit + tile_input(tile % kUnitTiles, column + 8 * (n / 2) + e, !kKeeps);
        q_tile.e[n][e] = k < p.key_width ? T(from[k]) : T(0.0f);
      }
    }
    if (!kKeeps) keep_weights(our_queries + 32 * tile, q_tile);
  }
  // A sink counts once among the lanes of a row, which add up their weights in the end.
  const float sink = p.sinks != 0 ? sinks[head] * kLog2E : -INFINITY;
  SoftmaxState state;
  KeyRange seen[2];
  MM_UNROLL for (uint h = 0; h < 2; ++h) {
    state.top[h] = sink;
    state.total[h] = sink != -INFINITY && column == 0 ? 1.0f : 0.0f;
    seen[h] = keys_of(p, t, query[h]);
  }
  TileSums sums[2 * kOurTiles];  // of 8 elements each
  MM_UNROLL for (uint i = 0; i < 2 * kOurTiles; ++i) sums[i] = no_sums();
  const KeyRange all = keys_of_tile(p, t);
  const uint newest_begin = keys_of(p, t, t.first + t.count - 1).begin, oldest_end = keys_of(p, t, t.first).end;
  uint first = next_tile<kTileKeys>(tp, blocks, t, all.begin / kTileKeys * kTileKeys, all.end);
  if (first < all.end)
    stage_rows<kUnits, kTileKeys, false>(stage + kTile, keys, where, p.key_width, first, t.keys, index);
  end_copies();
#pragma clang loop unroll(disable)
  for (uint slot = 0, next; first < all.end; first = next, slot = kKeyTiles - 1 - slot) {
    threadgroup const T* const key_tile = stage + (1 + slot) * kTile;
    next = next_tile<kTileKeys>(tp, blocks, t, first + kTileKeys, all.end);
    wait_for_copies<0>();
    threadgroup_barrier(mem_flags::mem_threadgroup);  // keys are here, the last tile's values are read
    stage_rows<kUnits, kTileKeys, true>(stage, values, where, p.value_width, first, t.keys, index);
    end_copies();
    if (kKeyTiles == 2) {
      if (next < all.end)
        stage_rows<kUnits, kTileKeys, false>(stage + (2 - slot) * kTile, keys, where, p.key_width, next, t.keys, index);
      end_copies();
    }
    TileSums scores[kScores];
    MM_UNROLL for (uint i = 0; i < kScores; ++i) scores[i] = no_sums();
    if (kKeeps) {
      MM_UNROLL for (uint i = 0; i < kScores; ++i) {
        MM_UNROLL for (uint part = 0; part < 2 * uint(kUnits); ++part) {
          TileTokens<T> k[2];
          load_staged<T, 32>(k, key_tile + part / 2 * (kTileKeys * kUnit), 8 * i, part % 2, lane);
          MM_UNROLL for (uint n = 0; n < 2; ++n) tile_multiply(scores[i], q_tiles[kKeeps ? 2 * part + n : 0], k[n], tiles);
        }
      }
    } else {
      // A tile of queries is read once for all keys.
#pragma clang loop unroll(disable)
      for (uint tile = 0; tile < kWidthTiles; ++tile) {
        const TileWeights<T> q_tile = weights_from<T>(our_queries[32 * tile]);
        MM_UNROLL for (uint i = 0; i < kScores; ++i) {
          TileTokens<T> k;
          load_staged<T, 16>(&k, key_tile + tile / kUnitTiles * (kTileKeys * kUnit), 8 * i, tile % kUnitTiles, lane);
          tile_multiply(scores[i], q_tile, k, tiles);
        }
      }
    }
    float factor = p.scale * kLog2E;
    if (p.soft_cap != 0.0f) {
      MM_UNROLL for (uint i = 0; i < kScores; ++i)
        MM_UNROLL for (uint n = 0; n < 4; ++n)
          scores[i].e[n] = p.soft_cap * kLog2E * precise::tanh(scores[i].e[n] * p.scale / p.soft_cap);
      factor = 1.0f;
    }
    // Most tiles are seen as a whole.
    if (first < newest_begin || first + kTileKeys > oldest_end || p.mask_stride != 0 || tp.block != 0 ||
        p.scale < 0.0f) {
      MM_UNROLL for (uint i = 0; i < kScores; ++i) {
        MM_UNROLL for (uint n = 0; n < 4; ++n) {
          const uint h = n / 2, key = first + 8 * i + column + n % 2;
          scores[i].e[n] *= factor;
          if (key < seen[h].begin || key >= seen[h].end || !in_block(tp, blocks, query[h], key)) {
            scores[i].e[n] = -INFINITY;
          } else if (p.mask_stride != 0) {
            scores[i].e[n] += mask[ulong(t.first_query + query[h]) * p.mask_stride + key] * kLog2E;
          }
        }
      }
      factor = 1.0f;
    }
    const float2 keep = weigh<true>(scores, factor, state);
    if (simd_any(keep.x != 1.0f || keep.y != 1.0f)) {
      MM_UNROLL for (uint i = 0; i < 2 * kOurTiles; ++i)
        MM_UNROLL for (uint n = 0; n < 4; ++n) sums[i].e[n] *= keep[n / 2];
    }
    // Scores of two tiles are a tile of inputs.
    TileWeights<T> weights[kScores / 2];
    MM_UNROLL for (uint tile = 0; tile < kScores / 2; ++tile) {
      MM_UNROLL for (uint n = 0; n < 4; ++n) {
        thread const TileSums& from = scores[2 * tile + n / 2];
        weights[tile].e[n] = vec<T, 2>(T(from.e[2 * (n % 2)]), T(from.e[2 * (n % 2) + 1]));
      }
    }
    wait_for_copies<kKeyTiles - 1>();
    threadgroup_barrier(mem_flags::mem_threadgroup);  // values are here, keys are read
    if (kKeyTiles == 1) {
      if (next < all.end)
        stage_rows<kUnits, kTileKeys, false>(stage + kTile, keys, where, p.key_width, next, t.keys, index);
      end_copies();
    }
    MM_UNROLL for (uint i = 0; i < kOurTiles; ++i) {
      const uint across = first_tile + i;
      threadgroup const T* const unit = stage + across / kUnitTiles * (kTileKeys * kUnit);
      MM_UNROLL for (uint tile = 0; tile < kScores / 2; ++tile) {
        TileTokens<T> v[2];
        load_staged_rows(v, unit, 16 * tile, across % kUnitTiles * 16, lane);
        MM_UNROLL for (uint n = 0; n < 2; ++n) tile_multiply(sums[2 * i + n], weights[tile], v[n], tiles);
      }
    }
  }
  MM_UNROLL for (uint h = 0; h < 2; ++h) {
    const float total = row_sum(state.total[h]);
    if (first_row + 8 * h >= t.count) continue;
    device Q* const to = out + ulong(query[h] - t.first) * out_stride;
    const float factor = state.top[h] == -INFINITY ? 0.0f : 1.0f / total;
    MM_UNROLL for (uint i = 0; i < 2 * kOurTiles; ++i) {
      MM_UNROLL for (uint e = 0; e < 2; ++e) {
        const uint element = 16 * first_tile + 8 * i + column + e;
        if (element < p.value_width) to[element] = Q(sums[i].e[2 * h + e] * factor);
      }
    }
  }
}

// Grid: (heads, tiles of prefill_queries queries). The last tiles, which see most, begin first.
template <typename T, int kUnits>
[[kernel, max_total_threads_per_threadgroup(128)]] void simdgroup_attention(
    device const T* q [[buffer(0)]], device const T* keys [[buffer(1)]], device const T* values [[buffer(2)]],
    device T* out [[buffer(3)]], device const int* q_starts [[buffer(4)]], device const int* k_starts [[buffer(5)]],
    device const float* mask [[buffer(6)]], device const float* sinks [[buffer(7)]],
    device const uchar* blocks [[buffer(8)]], constant TiledParams& tp [[buffer(9)]],
    threadgroup uchar* tile_memory [[threadgroup(0)]], uint2 group [[threadgroup_position_in_grid]],
    uint2 groups [[threadgroups_per_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup PrefillMemory<T, kUnits> m;
  const TileStage tiles = {tile_memory + simdgroup * kTileStageBytes, lane};
  constant PackedParams& p = tp.packed;
  const QueryTile t = query_tile(tp, q_starts, k_starts, groups.y - 1 - group.y, PrefillMemory<T, kUnits>::kQueries);
  if (!t.found) return;
  const ulong row = ulong(t.first_query + t.first) * p.heads + group.x;
  answer_tile<kUnits>(m, tiles, tp, t, packed_rows(p, t, group.x / (p.heads / p.kv_heads)), group.x,
                      q + row * p.key_width, p.heads * p.key_width, keys, values, out + row * p.value_width,
                      p.heads * p.value_width, mask, sinks, blocks, simdgroup, lane);
}

// The same over pages, of which each sequence's table tells.
template <typename Q, typename T, int kUnits>
[[kernel, max_total_threads_per_threadgroup(128)]] void simdgroup_paged_attention(
    device const Q* q [[buffer(0)]], device const T* keys [[buffer(1)]], device const T* values [[buffer(2)]],
    device Q* out [[buffer(3)]], device const int* q_starts [[buffer(4)]], device const int* k_starts [[buffer(5)]],
    device const int* tables [[buffer(6)]], device const float* sinks [[buffer(7)]],
    constant PageParams& pages [[buffer(8)]], constant TiledParams& tp [[buffer(9)]],
    threadgroup uchar* tile_memory [[threadgroup(0)]], uint2 group [[threadgroup_position_in_grid]],
    uint2 groups [[threadgroups_per_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup PrefillMemory<T, kUnits> m;
  const TileStage tiles = {tile_memory + simdgroup * kTileStageBytes, lane};
  constant PackedParams& p = tp.packed;
  const QueryTile t = query_tile(tp, q_starts, k_starts, groups.y - 1 - group.y, PrefillMemory<T, kUnits>::kQueries);
  if (!t.found) return;
  const ulong token = t.first_query + t.first;
  answer_tile<kUnits>(m, tiles, tp, t, paged_rows(p, pages, tables, t, group.x / (p.heads / p.kv_heads)), group.x,
                      q + token * pages.q_stride + group.x * p.key_width, pages.q_stride, keys, values,
                      out + token * pages.out_stride + group.x * p.value_width, pages.out_stride,
                      (device const float*)nullptr, sinks, (device const uchar*)nullptr, simdgroup, lane);
}

#define MM_SIMDGROUP_FOR(T, width, units, resident)                                                               \
  template [[host_name("simdgroup_attention_" #T "_" #width)]] [[kernel, max_total_threads_per_threadgroup(128) MM_RESIDENT(resident)]] \
  void simdgroup_attention<T, units>(device const T*, device const T*, device const T*, device T*,                \
                                     device const int*, device const int*, device const float*,                   \
                                     device const float*, device const uchar*, constant TiledParams&,             \
                                     threadgroup uchar*, uint2, uint2, uint, uint);
#define MM_SIMDGROUP(T)          \
  MM_SIMDGROUP_FOR(T, 64, 1, 12)    \
  MM_SIMDGROUP_FOR(T, 128, 2, 12)    \
  MM_SIMDGROUP_FOR(T, 192, 3, 8)
MM_SIMDGROUP(half)
MM_SIMDGROUP(bfloat)

#define MM_SIMDGROUP_PAGED_FOR(T, width, units, resident)                                                         \
  template [[host_name("simdgroup_paged_attention_float_" #T "_" #width)]]                                        \
  [[kernel, max_total_threads_per_threadgroup(128) MM_RESIDENT(resident)]]                                        \
  void simdgroup_paged_attention<float, T, units>(device const float*, device const T*, device const T*,          \
                                                  device float*, device const int*, device const int*,            \
                                                  device const int*, device const float*, constant PageParams&,   \
                                                  constant TiledParams&, threadgroup uchar*, uint2, uint2, uint,  \
                                                  uint);
#define MM_SIMDGROUP_PAGED(T)          \
  MM_SIMDGROUP_PAGED_FOR(T, 64, 1, 12)  \
  MM_SIMDGROUP_PAGED_FOR(T, 128, 2, 12) \
  MM_SIMDGROUP_PAGED_FOR(T, 192, 3, 8)
MM_SIMDGROUP_PAGED(half)
MM_SIMDGROUP_PAGED(bfloat)
