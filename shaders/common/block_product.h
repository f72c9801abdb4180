// Products of blocks of 16 rows with one token in f32, weights decoded in registers: a
// simdgroup goes over units of 64 inputs, a lane makes parts of the sums of rows r and
// r + 8, r = tile_row(lane). For the exact mode, and where there are few tokens.
#pragma once
#include "linear.h"
#include "unroll.h"

// Blocks lie one after another, those of several matrices too. product() gives this
// lane's part of unit `unit` of block `block`, without the matrix' factor.
template <typename Codec>
struct QuantizedBlocks {
  device const uchar* codes;
  device const uchar* scales;
  device const float* minima;
  constant TiledMatrix& m;

  METAL_FUNC float2 product(ulong block, uint unit, device const float* x, uint cols, uint lane) const {
    const UnitCodes<Codec::kBits> c =
        load_codes<Codec::kBits, FromDevice>(codes + (block * m.units + unit) * (128 * Codec::kBits), lane);
    float2 sums = float2(0.0f);
    MM_UNROLL for (uint tile = 0; tile < kUnitTiles; ++tile) {
      const uint part = tile >> (m.group_shift < 6 ? m.group_shift - 4 : 2);
      const ulong place = block * scales_of_block(m) + scales_before(m, unit) + scale_place(m, part, tile_row(lane));
      const float2 scale = stored_scales(m, scales, place);
      const float2 minimum = m.minima != 0 ? minimum_pair(m, minima, place, scale) : float2(0.0f);
      MM_UNROLL for (uint pair = 0; pair < 2; ++pair) {
        MM_UNROLL for (uint e = 0; e < 2; ++e) {
          const uint k = unit * kUnit + tile_input(tile, tile_column(lane) + 8 * pair + e, m.group_shift == 4);
          if (k >= cols) continue;
          const float2 v =
              float2(unit_element<Codec>(c, tile, 2 * pair, e, m), unit_element<Codec>(c, tile, 2 * pair + 1, e, m));
          sums = fma(fma(scale, v, minimum), float2(x[k]), sums);
        }
      }
    }
    return sums;
  }
};

// f16 or bf16: [block][unit][tile][lane] of 16 bytes, the lane's four pairs of the tile.
template <typename T>
METAL_FUNC TileWeights<T> load_dense_tile(device const uint4* weights, ulong unit, uint tile, uint lane) {
  return weights_from<T>(weights[(unit * kUnitTiles + tile) * 32 + lane]);
}
template <typename T>
struct DenseBlocks {
  device const uchar* weights;
  uint units;

  METAL_FUNC float2 product(ulong block, uint unit, device const float* x, uint cols, uint lane) const {
    float2 sums = float2(0.0f);
    MM_UNROLL for (uint tile = 0; tile < kUnitTiles; ++tile) {
      const TileWeights<T> w = load_dense_tile<T>((device const uint4*)weights, block * units + unit, tile, lane);
      MM_UNROLL for (uint pair = 0; pair < 2; ++pair) {
        MM_UNROLL for (uint e = 0; e < 2; ++e) {
          const uint k = unit * kUnit + tile_input(tile, tile_column(lane) + 8 * pair + e, false);
          if (k < cols) sums = fma(float2(float(w.e[2 * pair][e]), float(w.e[2 * pair + 1][e])), float2(x[k]), sums);
        }
      }
    }
    return sums;
  }
};

// f32: rows as files have them.
struct FloatBlocks {
  device const uchar* weights;

  METAL_FUNC float2 product(ulong block, uint unit, device const float* x, uint cols, uint lane) const {
    device const float* row = (device const float*)weights + (block * kTileRows + tile_row(lane)) * cols;
    float2 sums = float2(0.0f);
    MM_UNROLL for (uint tile = 0; tile < kUnitTiles; ++tile) {
      MM_UNROLL for (uint pair = 0; pair < 2; ++pair) {
        MM_UNROLL for (uint e = 0; e < 2; ++e) {
          const uint k = unit * kUnit + tile_input(tile, tile_column(lane) + 8 * pair + e, false);
          if (k < cols) sums = fma(float2(row[k], row[8 * ulong(cols) + k]), float2(x[k]), sums);
        }
      }
    }
    return sums;
  }
};

// What lanes of a threadgroup's simdgroups made of a block, put together in order: the sum of
// row `row` (0 to 15). `all` holds the parts, a barrier before.
METAL_FUNC float block_row_sum(threadgroup const float2* all, uint simdgroups, uint row) {
  float total = 0.0f;
  for (uint s = 0; s < simdgroups; ++s) {
    MM_UNROLL for (uint other = 0; other < 32; ++other) {
      if (tile_row(other) == row % 8) total += row < 8 ? all[32 * s + other].x : all[32 * s + other].y;
    }
  }
  return total;
}
