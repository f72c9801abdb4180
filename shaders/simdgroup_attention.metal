// Prefill on the matrix units: a simdgroup answers 16 queries, its products with keys and with
// values are tiles of 16x16 by 16x8, probabilities never leave its registers between the two.
// Queries, keys and values in half or bfloat; heads of up to 192.
#include "common/query_tiles.h"
#include "common/tile_multiply.h"

constant constexpr uint kAttentionKeys = 64;  // of a tile: a unit, when they are inputs

// Where key k of each 32 is staged as a token, so that a lane's scores are of the keys that it
// needs as inputs of the second product (tile_input).
METAL_FUNC uint key_place(uint k) {
#ifdef __METAL_MARLIN_PTX__
  const uint in = k % 32;
  return k / 32 * 32 + 8 * (2 * (in / 4 % 2) + in / 2 % 2) + 2 * (in / 8) + in % 2;
#else
  return k;
#endif
}
// The key that is staged at a place.
METAL_FUNC uint placed_key(uint place) {
#ifdef __METAL_MARLIN_PTX__
  const uint in = place % 32;
  return place / 32 * 32 + 8 * (in / 2 % 4) + 4 * (in / 16) + 2 * (in / 8 % 2) + in % 2;
#else
  return place;
#endif
}

// Over the four lanes that hold a row of a tile.
METAL_FUNC float row_max(float v) {
#ifdef __METAL_MARLIN_PTX__
  v = max(v, simd_shuffle_xor(v, ushort(1)));
  return max(v, simd_shuffle_xor(v, ushort(2)));
#else
  v = max(v, simd_shuffle_xor(v, ushort(1)));
  return max(v, simd_shuffle_xor(v, ushort(8)));
#endif
}
METAL_FUNC float row_sum(float v) {
#ifdef __METAL_MARLIN_PTX__
  v += simd_shuffle_xor(v, ushort(1));
  return v + simd_shuffle_xor(v, ushort(2));
#else
  v += simd_shuffle_xor(v, ushort(1));
  return v + simd_shuffle_xor(v, ushort(8));
#endif
}

// Keys as tokens: [unit of width][place of the key][64].
template <typename T, int kUnits>
METAL_FUNC void stage_keys(threadgroup T* stage, device const T* keys, QueryTile t, uint first, uint kv_heads,
                           uint kv_head, uint width, uint index) {
#pragma clang loop unroll_count(4)
  for (uint i = index; i < kAttentionKeys * kUnits * 8; i += 128) {
    const uint key = i / (kUnits * 8), piece = i % (kUnits * 8), e = 8 * piece;
    threadgroup T* to = stage + piece / 8 * (kAttentionKeys * kUnit) + 8 * staged_piece(key_place(key), piece % 8);
    device const T* from = keys + (ulong(t.first_key + first + key) * kv_heads + kv_head) * width + e;
    const bool there = first + key < t.keys;
    if (there && width % 8 == 0 && e < width) {
      copy_16_bytes(to, from);
    } else {
      for (uint j = 0; j < 8; ++j) to[j] = there && e + j < width ? from[j] : T(0.0f);
    }
  }
}
// Values as inputs: [element][64 keys].
template <typename T, int kUnits>
METAL_FUNC void stage_values(threadgroup T* stage, device const T* values, QueryTile t, uint first, uint kv_heads,
                             uint kv_head, uint width, uint index) {
  // Neighbouring threads take neighbouring pairs of keys, which are neighbours in the stage.
#pragma clang loop unroll_count(4)
  for (uint i = index; i < kAttentionKeys / 2 * kUnits * 8; i += 128) {
    const uint key = i % (kAttentionKeys / 2) * 2, piece = i / (kAttentionKeys / 2);
    vec<T, 2> pairs[8];
    for (uint n = 0; n < 2; ++n) {
      device const T* from = values + (ulong(t.first_key + first + key + n) * kv_heads + kv_head) * width + 8 * piece;
      const bool there = first + key + n < t.keys;
      if (there && width % 8 == 0 && 8 * piece < width) {
        const uint4 bits = *(device const uint4*)from;
        for (uint j = 0; j < 4; ++j) {
          const vec<T, 2> two = as_type<vec<T, 2>>(bits[j]);
          pairs[2 * j][n] = two.x;
          pairs[2 * j + 1][n] = two.y;
        }
      } else {
        for (uint j = 0; j < 8; ++j) pairs[j][n] = there && 8 * piece + j < width ? from[j] : T(0.0f);
      }
    }
    for (uint j = 0; j < 8; ++j)
      *(threadgroup vec<T, 2>*)(stage + 8 * staged_piece(8 * piece + j, key / 8) + key % 8) = pairs[j];
  }
}

// kUnits: of 64 elements, that a head has at most. Grid: (heads, tiles of 64 queries).
template <typename T, int kUnits>
[[kernel, max_total_threads_per_threadgroup(128)]] void simdgroup_attention(
    device const T* q [[buffer(0)]], device const T* keys [[buffer(1)]], device const T* values [[buffer(2)]],
    device T* out [[buffer(3)]], device const int* q_starts [[buffer(4)]], device const int* k_starts [[buffer(5)]],
    device const float* mask [[buffer(6)]], device const float* sinks [[buffer(7)]],
    device const uchar* blocks [[buffer(8)]], constant TiledParams& tp [[buffer(9)]],
    threadgroup uchar* tile_memory [[threadgroup(0)]], uint2 group [[threadgroup_position_in_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup T stage[kUnits * kAttentionKeys * kUnit];
  constexpr uint kWidthTiles = kUnits * kUnitTiles, kKeyTiles = kAttentionKeys / 8;
  constant PackedParams& p = tp.packed;
  const TileStage tiles = {tile_memory + simdgroup * kTileStageBytes, lane};
  const uint head = group.x, kv_head = head / (p.heads / p.kv_heads), index = simdgroup * 32 + lane;
  const QueryTile t = query_tile(tp, q_starts, k_starts, group.y, 4 * kTileRows);
  if (!t.found) return;
  const uint row = tile_row(lane), column = tile_column(lane);
  // Rows r and r + 8 of this simdgroup's queries; past the last they repeat it.
  uint query[2];
  for (uint h = 0; h < 2; ++h) query[h] = t.first + min(simdgroup * kTileRows + row + 8 * h, t.count - 1);
  TileWeights<T> q_tiles[kWidthTiles];
  for (uint tile = 0; tile < kWidthTiles; ++tile) {
    for (uint n = 0; n < 4; ++n) {
      device const T* from = q + (ulong(t.first_query + query[n % 2]) * p.heads + head) * p.key_width;
      for (uint e = 0; e < 2; ++e) {
        const uint k = tile / kUnitTiles * kUnit + tile_input(tile % kUnitTiles, column + 8 * (n / 2) + e, false);
        q_tiles[tile].e[n][e] = k < p.key_width ? from[k] : T(0.0f);
      }
    }
  }
  const float sink = p.sinks != 0 ? sinks[head] : -INFINITY;
  float top[2] = {sink, sink}, total[2];
  KeyRange seen[2];
  for (uint h = 0; h < 2; ++h) {
    total[h] = sink == -INFINITY ? 0.0f : 1.0f;
    seen[h] = keys_of(p, t, query[h]);
  }
  TileSums sums[2 * kWidthTiles];  // of 8 elements each
  for (uint i = 0; i < 2 * kWidthTiles; ++i) sums[i] = no_sums();
  const KeyRange all = keys_of_tile(p, t);
  const uint newest_begin = keys_of(p, t, t.first + t.count - 1).begin, oldest_end = keys_of(p, t, t.first).end;
#pragma clang loop unroll(disable)
  for (uint first = all.begin / kAttentionKeys * kAttentionKeys; first < all.end; first += kAttentionKeys) {
    if (!any_in_block(tp, blocks, t.first, t.first + t.count - 1, first, min(first + kAttentionKeys, all.end))) continue;
    threadgroup_barrier(mem_flags::mem_threadgroup);  // the last tile's values are read
    stage_keys<T, kUnits>(stage, keys, t, first, p.kv_heads, kv_head, p.key_width, index);
    end_copies();
    wait_for_copies<0>();
    threadgroup_barrier(mem_flags::mem_threadgroup);
    TileSums scores[kKeyTiles];
    for (uint i = 0; i < kKeyTiles; ++i) {
      scores[i] = no_sums();
      for (uint unit = 0; unit < uint(kUnits); ++unit) {
        for (uint part = 0; part < 2; ++part) {
          TileTokens<T> k[2];
          load_staged<T, 32>(k, stage + unit * (kAttentionKeys * kUnit), 8 * i, part, lane);
          for (uint n = 0; n < 2; ++n) tile_multiply(scores[i], q_tiles[unit * kUnitTiles + 2 * part + n], k[n], tiles);
        }
      }
    }
    float now[2] = {top[0], top[1]};
    for (uint i = 0; i < kKeyTiles; ++i)
      for (uint n = 0; n < 4; ++n) scores[i].e[n] *= p.scale;
    if (p.soft_cap != 0.0f) {
      for (uint i = 0; i < kKeyTiles; ++i)
        for (uint n = 0; n < 4; ++n) scores[i].e[n] = p.soft_cap * precise::tanh(scores[i].e[n] / p.soft_cap);
    }
    // Most tiles are seen as a whole.
    if (first < newest_begin || first + kAttentionKeys > oldest_end || p.mask_stride != 0 || tp.block != 0) {
      for (uint i = 0; i < kKeyTiles; ++i) {
        for (uint n = 0; n < 4; ++n) {
          const uint h = n / 2, key = first + placed_key(8 * i + column + n % 2);
          if (key < seen[h].begin || key >= seen[h].end || !in_block(tp, blocks, query[h], key)) {
            scores[i].e[n] = -INFINITY;
          } else if (p.mask_stride != 0) {
            scores[i].e[n] += mask[ulong(t.first_query + query[h]) * p.mask_stride + key];
          }
        }
      }
    }
    for (uint i = 0; i < kKeyTiles; ++i)
      for (uint n = 0; n < 4; ++n) now[n / 2] = max(now[n / 2], scores[i].e[n]);
    float keep[2], sum[2] = {0.0f, 0.0f};
    for (uint h = 0; h < 2; ++h) {
      now[h] = row_max(now[h]);
      const float from = now[h] == -INFINITY ? 0.0f : now[h];  // nothing seen yet
      keep[h] = weight_of(top[h] - from);
      top[h] = now[h];
      now[h] = from;
    }
    for (uint i = 0; i < kKeyTiles; ++i) {
      for (uint n = 0; n < 4; ++n) {
        const uint h = n / 2;
        const float weight = weight_of(scores[i].e[n] - now[h]);
        scores[i].e[n] = weight;
        sum[h] += weight;
      }
    }
    for (uint h = 0; h < 2; ++h) total[h] = total[h] * keep[h] + row_sum(sum[h]);
    for (uint i = 0; i < 2 * kWidthTiles; ++i)
      for (uint n = 0; n < 4; ++n) sums[i].e[n] *= keep[n / 2];
    // Scores of two tiles are a tile of inputs.
    TileWeights<T> weights[kUnitTiles];
    for (uint tile = 0; tile < kUnitTiles; ++tile) {
      for (uint n = 0; n < 4; ++n) {
        thread const TileSums& from = scores[2 * tile + n / 2];
        weights[tile].e[n][0] = T(from.e[2 * (n % 2)]);
        weights[tile].e[n][1] = T(from.e[2 * (n % 2) + 1]);
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);  // keys are read
    stage_values<T, kUnits>(stage, values, t, first, p.kv_heads, kv_head, p.value_width, index);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = 0; i < 2 * kWidthTiles; ++i) {
      for (uint part = 0; part < 2; ++part) {
        TileTokens<T> v[2];
        load_staged<T, 32>(v, stage, 8 * i, part, lane);
        for (uint n = 0; n < 2; ++n) tile_multiply(sums[i], weights[2 * part + n], v[n], tiles);
      }
    }
  }
  for (uint n = 0; n < 4; ++n) {
    const uint h = n / 2;
    if (simdgroup * kTileRows + row + 8 * h >= t.count) continue;
    device T* const to = out + (ulong(t.first_query + query[h]) * p.heads + head) * p.value_width;
    const float factor = top[h] == -INFINITY ? 0.0f : 1.0f / total[h];
    for (uint i = 0; i < 2 * kWidthTiles; ++i) {
      const uint e = 8 * i + column + n % 2;
      if (e < p.value_width) to[e] = T(sums[i].e[n] * factor);
    }
  }
}

#define MM_SIMDGROUP_FOR(T, width, units)                                                                         \
  template [[host_name("simdgroup_attention_" #T "_" #width)]] [[kernel, max_total_threads_per_threadgroup(128) MM_RESIDENT(8)]] \
  void simdgroup_attention<T, units>(device const T*, device const T*, device const T*, device T*,                \
                                     device const int*, device const int*, device const float*,                   \
                                     device const float*, device const uchar*, constant TiledParams&,             \
                                     threadgroup uchar*, uint2, uint, uint);
#define MM_SIMDGROUP(T)          \
  MM_SIMDGROUP_FOR(T, 64, 1)     \
  MM_SIMDGROUP_FOR(T, 128, 2)    \
  MM_SIMDGROUP_FOR(T, 192, 3)
MM_SIMDGROUP(half)
MM_SIMDGROUP(bfloat)
