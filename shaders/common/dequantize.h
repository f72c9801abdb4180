// Dequantization as a kernel of its own, one text for all formats: from the
// canonical layout of files (src/formats/packed_matrix.h) and from the kernel
// layout. Bit for bit what src/formats gives, in f32 and rounded once.
#pragma once
#include "codecs.h"
#include "dequantize_params.h"
#include "unit_layout.h"
#include "unroll.h"

// Code `i` of a little-endian stream of kBits-wide codes.
template <int kBits>
METAL_FUNC uint stream_code(device const uchar* stream, uint i) {
  const uint bit = i * kBits, byte = bit / 8, shift = bit % 8;
  uint v = stream[byte];
  if (shift + kBits > 8) v |= uint(stream[byte + 1]) << 8;
  return v >> shift & ((1u << kBits) - 1u);
}

// One thread a weight: grid (cols, rows).
template <typename Codec, typename T>
[[kernel]] void dequantize(device const uchar* codes [[buffer(0)]], device const uchar* scales [[buffer(1)]],
                           device const uchar* zeros [[buffer(2)]], device T* out [[buffer(3)]],
                           constant DequantizeParams& p [[buffer(4)]], uint2 at [[thread_position_in_grid]]) {
#pragma clang fp contract(off)
  const uint code = stream_code<Codec::kBits>(codes + ulong(at.y) * p.row_bytes, at.x);
  const uint group = at.x / p.group;
  const ulong scale_at = ulong(at.y) * p.groups + group;
  float scale = codecs::load_scale(p.scale_type, scales, scale_at);
  if (p.scale_type == codecs::kE4m3Scale) scale = scale / p.global_scale;
  float element = Codec::element(code, p);
  if (p.zero_kind == 2) element -= float(stream_code<Codec::kBits>(zeros + ulong(at.y) * p.zero_bytes, group));
  const float product = scale * element;
  const float minimum = p.zero_kind == 1 ? codecs::load_scale(p.scale_type, zeros, scale_at) : 0.0f;
  out[ulong(at.y) * p.cols + at.x] = T(product + minimum);
}

// Scales of a tile's rows r and r + 8, as elements multiply them.
METAL_FUNC float2 unit_scales(constant TiledMatrix& p, device const uchar* scales, ulong place) {
  return stored_scales(p, scales, place) / p.divisor;
}
// Element e of pair q of a tile with these scales, whose place they have among all.
template <typename Codec>
METAL_FUNC float unit_value(const thread UnitCodes<Codec::kBits>& unit, constant TiledMatrix& p, float2 scale,
                            device const float* minima, ulong place, uint tile, uint q, uint e) {
#pragma clang fp contract(off)
  const float base = p.minima != 0 ? minima[place + (q & 1)] : 0.0f;
  const float element = unit_element<Codec>(unit, tile, q, e, p) - (p.minima == 2 ? base : 0.0f);
  const float product = ((q & 1) != 0 ? scale.y : scale.x) * element;
  return product + (p.minima == 1 ? base : 0.0f);
}

// One simdgroup a unit of 16 rows: grid (units, blocks), threadgroups of 32.
template <typename Codec, typename T>
[[kernel]] void dequantize_units(device const uchar* codes [[buffer(0)]], device const uchar* scales [[buffer(1)]],
                                 device const float* minima [[buffer(2)]], device T* out [[buffer(3)]],
                                 constant TiledMatrix& p [[buffer(4)]], constant uint& cols [[buffer(5)]],
                                 uint2 at [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  const UnitCodes<Codec::kBits> unit =
      load_codes<Codec::kBits, FromDevice>(codes + (ulong(at.y) * p.units + at.x) * (128 * Codec::kBits), lane);
  const bool by_16 = p.group_shift == 4;
  MM_UNROLL for (uint tile = 0; tile < kUnitTiles; ++tile) {
    const ulong place = tile_scale_place(p, at.y, at.x, tile, lane);
    const float2 scale = unit_scales(p, scales, place);
    MM_UNROLL for (uint q = 0; q < 4; ++q) {
      const uint row = at.y * kTileRows + tile_row(lane) + 8 * (q & 1);
      MM_UNROLL for (uint e = 0; e < 2; ++e) {
        const uint column = tile_column(lane) + 8 * (q / 2) + e;
        const uint k = at.x * kUnit + tile_input(tile, column, by_16);
        if (row >= p.rows || k >= cols) continue;
        out[ulong(row) * cols + k] = T(unit_value<Codec>(unit, p, scale, minima, place, tile, q, e));
      }
    }
  }
}

// Rows picked out of the kernel layout, as an embedding does. One simdgroup a unit: grid
// (units, ids), threadgroups of 32.
template <typename Codec>
[[kernel]] void embed(device const uchar* codes [[buffer(0)]], device const uchar* scales [[buffer(1)]],
                      device const float* minima [[buffer(2)]], device const int* ids [[buffer(3)]],
                      device float* out [[buffer(4)]], constant TiledMatrix& p [[buffer(5)]],
                      constant uint& cols [[buffer(6)]], uint2 at [[threadgroup_position_in_grid]],
                      uint lane [[thread_index_in_simdgroup]]) {
  const uint id = uint(ids[at.y]), block = id / kTileRows;
  const uint second = id % kTileRows / 8;  // rows r and r + 8 lie in a lane
  if (tile_row(lane) != id % 8) return;
  const UnitCodes<Codec::kBits> unit =
      load_codes<Codec::kBits, FromDevice>(codes + (ulong(block) * p.units + at.x) * (128 * Codec::kBits), lane);
  MM_UNROLL for (uint tile = 0; tile < kUnitTiles; ++tile) {
    const ulong place = tile_scale_place(p, block, at.x, tile, lane);
    const float2 scale = unit_scales(p, scales, place);
    MM_UNROLL for (uint q = 0; q < 4; ++q) {
      if (q % 2 != second) continue;
      MM_UNROLL for (uint e = 0; e < 2; ++e) {
        const uint k = at.x * kUnit + tile_input(tile, tile_column(lane) + 8 * (q / 2) + e, p.group_shift == 4);
        if (k < cols) out[ulong(at.y) * cols + k] = unit_value<Codec>(unit, p, scale, minima, place, tile, q, e);
      }
    }
  }
}

#define MM_DEQUANTIZE_TO(name, Codec, T)                                                                               \
  template [[host_name("dequant_" #name "_" #T)]] [[kernel]] void dequantize<Codec, T>(                                \
      device const uchar*, device const uchar*, device const uchar*, device T*, constant DequantizeParams&, uint2);    \
  template [[host_name("dequant_units_" #name "_" #T)]] [[kernel]] void dequantize_units<Codec, T>(                    \
      device const uchar*, device const uchar*, device const float*, device T*, constant TiledMatrix&, constant uint&, \
      uint2, uint);
#define MM_DEQUANTIZE(name, Codec)                                                                     \
  MM_DEQUANTIZE_TO(name, Codec, half)                                                                  \
  MM_DEQUANTIZE_TO(name, Codec, bfloat)                                                                \
  MM_DEQUANTIZE_TO(name, Codec, float)                                                                 \
  template [[host_name("embed_" #name)]] [[kernel]] void embed<Codec>(                                 \
      device const uchar*, device const uchar*, device const float*, device const int*, device float*, \
      constant TiledMatrix&, constant uint&, uint2, uint);
