// What the matrix kernels share: activations prepared, sums of a unit, results.
#pragma once
#include "epilogue.h"
#include "linear_params.h"
#include "unit_layout.h"
#include "unroll.h"

METAL_FUNC void put_result(device uchar* y, constant LinearParams& p, uint token, uint row, float sum,
                           device const float* bias) {
  const ulong at = ulong(token) * p.y_stride + row;
  float v = activate(p.activation, p.bias != 0 ? sum + bias[row] : sum);
  if (p.y_type == 0) {
    device float* out = (device float*)y + at;
    *out = p.accumulate != 0 ? *out + v : v;
  } else if (p.y_type == 1) {
    device half* out = (device half*)y + at;
    *out = half(p.accumulate != 0 ? float(*out) + v : v);
  } else {
    device bfloat* out = (device bfloat*)y + at;
    *out = bfloat(p.accumulate != 0 ? float(*out) + v : v);
  }
}

// Adds the products of kTiles tiles, which share their scales.
template <uint kTiles>
METAL_FUNC void add_scaled(thread TileSums& sums, const thread TileWeights<half>* w, const thread TileTokens<half>* x,
                           float2 scale, TileStage stage) {
  TileSums s = no_sums();
  MM_UNROLL for (uint t = 0; t < kTiles; ++t) tile_multiply(s, w[t], x[t], stage);
  MM_UNROLL for (uint i = 0; i < 4; ++i) sums.e[i] = fma(i < 2 ? scale.x : scale.y, s.e[i], sums.e[i]);
}
// The same of tiles that a codec decoded.
template <typename Codec, uint kTiles>
METAL_FUNC void add_decoded(thread TileSums& sums, const thread TileWeights<half>* w, const thread TileTokens<half>* x,
                            float2 scale, TileStage stage) {
  add_scaled<kTiles>(sums, w, x, scale, stage);
  if (!Codec::kSplits || !subnormals_are_flushed()) return;
  TileWeights<half> low[kTiles];
  MM_UNROLL for (uint t = 0; t < kTiles; ++t) MM_UNROLL for (uint q = 0; q < 4; ++q) low[t].e[q] =
      half2(only_subnormal(w[t].e[q].x), only_subnormal(w[t].e[q].y));
  add_scaled<kTiles>(sums, low, x, scale / 16777216.0f, stage);
}
// A minimum times the sum of the activations, by matrices of ones.
template <uint kTiles>
METAL_FUNC void add_minimum(thread TileSums& sums, const thread TileTokens<half>* x, float2 minimum, TileStage stage) {
  TileWeights<half> ones[kTiles];
  MM_UNROLL for (uint t = 0; t < kTiles; ++t) MM_UNROLL for (uint q = 0; q < 4; ++q) ones[t].e[q] = half2(1.0h, 1.0h);
  add_scaled<kTiles>(sums, ones, x, minimum, stage);
}

// Adds a unit's products to the sums of kColumns times 8 tokens. Codes multiply as
// they are; each group's sum is scaled in float. `minima` are the unit's.
template <typename Codec, typename S, int kColumns>
METAL_FUNC void add_unit(thread TileSums* sums, const thread UnitData<Codec, S>& data,
                         const thread TileTokens<half> (&x)[kColumns][kUnitTiles], constant TiledMatrix& m,
                         device const float* minima, TileStage stage) {
  MM_UNROLL for (uint part = 0; part < S::kParts; ++part) {
    const float2 scale = part_scales<S>(m, data.scales, part);
    TileWeights<half> w[S::kTiles];
    MM_UNROLL for (uint t = 0; t < S::kTiles; ++t) w[t] = decode_tile<Codec>(data.codes, part * S::kTiles + t, m);
    MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c)
        add_decoded<Codec, S::kTiles>(sums[c], w, x[c] + part * S::kTiles, scale, stage);
    if (!S::kGeneral || m.minima == 0) continue;
    const float2 minimum = minimum_pair(m, minima, scale_place(m, part, tile_row(stage.lane)), scale);
    MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c)
        add_minimum<S::kTiles>(sums[c], x[c] + part * S::kTiles, minimum, stage);
  }
}

// Sums of a tile go through threadgroup memory as [token][row], `stride` floats a
// token, so that the lanes that finish them lie along the rows.
METAL_FUNC void store_sums(threadgroup float* out, uint stride, TileSums sums, uint lane) {
  threadgroup float* at = out + tile_column(lane) * stride + tile_row(lane);
  at[0] = sums.e[0];
  at[stride] = sums.e[1];
  at[8] = sums.e[2];
  at[stride + 8] = sums.e[3];
}
