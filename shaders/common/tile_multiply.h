// Matrix tiles held by a simdgroup: 16x16 weights times 16x8 activations, summed
// in float. On Metal they are four, two and two 8x8 simdgroup matrices; on NVIDIA
// one m16n8k16. Lane by lane both look alike: a lane holds rows r and r + 8 of
// weights and sums, pairs of neighbouring columns.
//
//   weights  e[q], q = 0..3: row r + 8 (q mod 2), columns c + 8 (q / 2) and the next
//   sums     e[i], i = 0..3: row r + 8 (i / 2), token c + i mod 2
//
// with r = tile_row(lane) and c = tile_column(lane). Apple does not document its
// order of lanes: where the kernel tile_map finds another one, the function constant
// stage_tiles is set, and elements pass through threadgroup memory.
#pragma once
#include <metal_stdlib>

#include "launch.h"
#include "subnormals.h"
#include "unroll.h"

using namespace metal;

// Inputs of a unit, the piece of a row that a lane loads at once, and its tiles.
constant constexpr uint kUnit = 64;
constant constexpr uint kUnitTiles = 4;
constant constexpr uint kTileRows = 16;
constant constexpr uint kTileTokens = 8;

#ifdef __METAL_MARLIN_PTX__
METAL_FUNC uint tile_row(uint lane) {
  return lane >> 2;
}
METAL_FUNC uint tile_column(uint lane) {
  return (lane & 3u) * 2;
}
#else
METAL_FUNC uint tile_row(uint lane) {
  return (lane >> 2 & 4u) + (lane >> 1 & 3u);
}
METAL_FUNC uint tile_column(uint lane) {
  return (lane >> 2 & 2u) * 2 + (lane & 1u) * 2;
}
#endif

// Which input of its unit column `column` of tile `tile` stands for. NVIDIA's
// lanes take neighbouring inputs, so that a lane's activations are neighbours in
// memory: 4 of each 16 where a scale spans 16 inputs, 8 of each 32 elsewhere.
METAL_FUNC uint tile_input(uint tile, uint column, bool by_16) {
#ifdef __METAL_MARLIN_PTX__
  const uint lane = column / 2 % 4, pair = column / 8, e = column % 2;
  return by_16 ? tile * 16 + lane * 4 + pair * 2 + e : tile / 2 * 32 + lane * 8 + tile % 2 * 4 + pair * 2 + e;
#else
  return tile * 16 + column;
#endif
}

// Threadgroup memory of a simdgroup for tiles that are staged.
constant constexpr uint kTileStageBytes = 1024;
struct TileStage {
  threadgroup uchar* memory;
  uint lane;
};

template <typename T>
struct TileWeights {
  vec<T, 2> e[4];
};
struct TileSums {
  float e[4];
};
// A lane's part of a tile in 16 bytes.
template <typename T>
METAL_FUNC TileWeights<T> weights_from(uint4 words) {
  TileWeights<T> w;
  MM_UNROLL for (uint q = 0; q < 4; ++q) w.e[q] = as_type<vec<T, 2>>(words[q]);
  return w;
}
template <typename T>
METAL_FUNC void keep_weights(threadgroup uint4* at, TileWeights<T> w) {
  MM_UNROLL for (uint q = 0; q < 4; ++q)((threadgroup vec<T, 2>*)at)[q] = w.e[q];
}

#ifdef __METAL_MARLIN_PTX__

template <typename T>
struct TileTokens {
  uint e[2];
};
// From threadgroup memory: units of 64 elements a token, pieces of 8 elements
// swapped so that the lanes' loads spread over the banks. Gives the tiles of part
// `part`, of kGroup inputs.
METAL_FUNC uint staged_piece(uint token, uint piece) {
  return token * 8 + (piece ^ (token & 1u) * 4);
}
template <typename T, int kGroup>
METAL_FUNC void load_staged(thread TileTokens<T>* out, threadgroup const T* x, uint first_token, uint part, uint lane) {
  const uint token = first_token + (lane >> 2);
  if (kGroup == 16) {
    const uint piece = staged_piece(token, 2 * part + (lane & 3u) / 2);
    const uint2 v = *(threadgroup const uint2*)(x + 8 * piece + 4 * (lane & 1u));
    out[0].e[0] = v.x;
    out[0].e[1] = v.y;
    return;
  }
  MM_UNROLL for (uint i = 0; i < kGroup / 32; ++i) {
    const uint4 v =
        *(threadgroup const uint4*)(x + 8 * staged_piece(token, 4 * (part * (kGroup / 32) + i) + (lane & 3u)));
    out[2 * i].e[0] = v.x;
    out[2 * i].e[1] = v.y;
    out[2 * i + 1].e[0] = v.z;
    out[2 * i + 1].e[1] = v.w;
  }
}
// Rows of a unit of 64 elements each in threadgroup memory, whose elements are the tokens: the rows are
// inputs. Gives the tiles of 16 rows from `first_row` on and of 16 elements from `element` on.
METAL_FUNC uint staged_row_piece(uint row, uint piece) {
  return row * 8 + (piece ^ (row & 7u));
}
template <typename T>
METAL_FUNC void load_staged_rows(thread TileTokens<T>* out, threadgroup const T* x, uint first_row, uint element,
                                 uint lane) {
  const uint4 v =
      msl_load_matrices_transposed(x + 8 * staged_row_piece(first_row + (lane & 15u), element / 8 + (lane >> 4)));
  out[0].e[0] = v.x;
  out[0].e[1] = v.y;
  out[1].e[0] = v.z;
  out[1].e[1] = v.w;
}
// All four tiles of a unit, for a lane's token: x is where the lane's elements begin,
// lane_elements(...) from the unit's; flip swaps the unit's halves, if it is 32.
METAL_FUNC uint lane_elements(bool by_16, uint lane) {
  return (by_16 ? 4 : 8) * (lane & 3u);
}
template <typename T>
METAL_FUNC void load_unit(thread TileTokens<T>* out, threadgroup const T* x, uint flip, bool by_16) {
  if (by_16) {
    MM_UNROLL for (uint i = 0; i < kUnitTiles; ++i) {
      const uint2 v = *(threadgroup const uint2*)(x + (16 * i ^ flip));
      out[i].e[0] = v.x;
      out[i].e[1] = v.y;
    }
    return;
  }
  MM_UNROLL for (uint i = 0; i < 2; ++i) {
    const uint4 v = *(threadgroup const uint4*)(x + (32 * i ^ flip));
    out[2 * i].e[0] = v.x;
    out[2 * i].e[1] = v.y;
    out[2 * i + 1].e[0] = v.z;
    out[2 * i + 1].e[1] = v.w;
  }
}
METAL_FUNC void tile_multiply(thread TileSums& d, TileWeights<half> a, TileTokens<half> b, TileStage) {
  msl_mma_16x8x16(d.e, as_type<uint>(a.e[0]), as_type<uint>(a.e[1]), as_type<uint>(a.e[2]), as_type<uint>(a.e[3]),
                  b.e[0], b.e[1], true);
}
METAL_FUNC void tile_multiply(thread TileSums& d, TileWeights<bfloat> a, TileTokens<bfloat> b, TileStage) {
  msl_mma_16x8x16(d.e, as_type<uint>(a.e[0]), as_type<uint>(a.e[1]), as_type<uint>(a.e[2]), as_type<uint>(a.e[3]),
                  b.e[0], b.e[1], false);
}

#else

// A lane's elements of a matrix: the first two of 64.
template <typename T>
METAL_FUNC void set_elements(thread simdgroup_matrix<T, 8, 8>& m, vec<T, 2> e) {
  m.thread_elements()[0] = e.x;
  m.thread_elements()[1] = e.y;
}

template <typename T>
struct TileTokens {
  simdgroup_matrix<T, 8, 8> m[2];
};
// The four tiles of a unit for 8 tokens, all of which must be there, from rows of
// `stride` elements.
template <typename T>
METAL_FUNC void load_unit(thread TileTokens<T>* out, device const T* x, ulong stride) {
  MM_UNROLL for (uint i = 0; i < kUnitTiles; ++i) {
    simdgroup_load(out[i].m[0], x + 16 * i, stride, ulong2(0, 0), true);
    simdgroup_load(out[i].m[1], x + 16 * i + 8, stride, ulong2(0, 0), true);
  }
}
METAL_FUNC uint staged_piece(uint token, uint piece) {
  return token * 8 + piece;
}
template <typename T, int kGroup>
METAL_FUNC void load_staged(thread TileTokens<T>* out, threadgroup const T* x, uint first_token, uint part, uint) {
  MM_UNROLL for (uint t = 0; t < kGroup / 16; ++t) {
    threadgroup const T* at = x + first_token * kUnit + part * kGroup + 16 * t;
    simdgroup_load(out[t].m[0], at, kUnit, ulong2(0, 0), true);
    simdgroup_load(out[t].m[1], at + 8, kUnit, ulong2(0, 0), true);
  }
}
METAL_FUNC uint staged_row_piece(uint row, uint piece) {
  return row * 8 + piece;
}
template <typename T>
METAL_FUNC void load_staged_rows(thread TileTokens<T>* out, threadgroup const T* x, uint first_row, uint element,
                                 uint) {
  MM_UNROLL for (uint n = 0; n < 2; ++n) MM_UNROLL for (uint h = 0; h < 2; ++h)
      simdgroup_load(out[n].m[h], x + (first_row + 8 * h) * kUnit + element + 8 * n, kUnit);
}
constant bool stage_tiles [[function_constant(0)]];

// Weights as [16][16] and sums as [16][8], written and read where tile_row and
// tile_column say.
template <typename T>
METAL_FUNC void multiply_staged(thread TileSums& d, TileWeights<T> a, TileTokens<T> b, TileStage stage) {
  const uint row = tile_row(stage.lane), column = tile_column(stage.lane);
  threadgroup T* weights = (threadgroup T*)stage.memory;
  threadgroup float* sums = (threadgroup float*)(stage.memory + 512);
  MM_UNROLL for (uint q = 0; q < 4; ++q) {
    threadgroup T* at = weights + (row + 8 * (q % 2)) * 16 + column + 8 * (q / 2);
    at[0] = a.e[q].x;
    at[1] = a.e[q].y;
  }
  MM_UNROLL for (uint i = 0; i < 4; ++i) sums[(row + 8 * (i / 2)) * 8 + column + i % 2] = d.e[i];
  simdgroup_barrier(mem_flags::mem_threadgroup);
  MM_UNROLL for (uint h = 0; h < 2; ++h) {
    simdgroup_matrix<float, 8, 8> sum;
    simdgroup_load(sum, sums + 64 * h, 8);
    MM_UNROLL for (uint k = 0; k < 2; ++k) {
      simdgroup_matrix<T, 8, 8> w;
      simdgroup_load(w, weights + 128 * h + 8 * k, 16);
      simdgroup_multiply_accumulate(sum, w, b.m[k], sum);
    }
    simdgroup_store(sum, sums + 64 * h, 8);
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
  MM_UNROLL for (uint i = 0; i < 4; ++i) d.e[i] = sums[(row + 8 * (i / 2)) * 8 + column + i % 2];
}
template <typename T>
METAL_FUNC void tile_multiply(thread TileSums& d, TileWeights<T> a, TileTokens<T> b, TileStage stage) {
  if (stage_tiles) return multiply_staged(d, a, b, stage);
  simdgroup_matrix<float, 8, 8> sum[2];
  simdgroup_matrix<T, 8, 8> w[4];
  MM_UNROLL for (uint q = 0; q < 4; ++q) set_elements(w[q], a.e[q]);
  MM_UNROLL for (uint h = 0; h < 2; ++h) {
    set_elements(sum[h], float2(d.e[2 * h], d.e[2 * h + 1]));
    simdgroup_multiply_accumulate(sum[h], w[h], b.m[0], sum[h]);
    simdgroup_multiply_accumulate(sum[h], w[2 + h], b.m[1], sum[h]);
    d.e[2 * h] = sum[h].thread_elements()[0];
    d.e[2 * h + 1] = sum[h].thread_elements()[1];
  }
}

#endif

METAL_FUNC TileSums no_sums() {
  TileSums s;
  MM_UNROLL for (uint i = 0; i < 4; ++i) s.e[i] = 0.0f;
  return s;
}

// ---- copies from device to threadgroup memory that may run ahead

#ifdef __METAL_MARLIN_PTX__
METAL_FUNC void copy_16_bytes(threadgroup void* to, device const void* from) {
  msl_copy_async_16(to, from);
}
METAL_FUNC void end_copies() {
  msl_copy_async_commit();
}
// Until at most `behind` ended groups of copies are under way.
template <int kBehind>
METAL_FUNC void wait_for_copies() {
  msl_copy_async_wait<kBehind>();
}
#else
METAL_FUNC void copy_16_bytes(threadgroup void* to, device const void* from) {
  *(threadgroup uint4*)to = *(device const uint4*)from;
}
METAL_FUNC void end_copies() {}
template <int kBehind>
METAL_FUNC void wait_for_copies() {}
#endif

// ---- simdgroups that should find registers on a core side by side: an attribute of kernels (NVIDIA only)
#ifdef __METAL_MARLIN_PTX__
#define MM_RESIDENT(simdgroups) , msl_resident_simdgroups(simdgroups)
#else
#define MM_RESIDENT(simdgroups)
#endif
