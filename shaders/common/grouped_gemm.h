// Products of several matrices, one after another in memory, each with rows of its own:
// experts with their tokens, heads with their parts. As staged_gemm, but that a
// threadgroup takes tiles of rows in turn, as many as its matrix has.
#pragma once
#include "staged_gemm.h"
#include "unroll.h"

// The result's rows of one matrix are first, first + step ...: `count` of them. The
// activations of row r are row r too, or those of its token: order[r] / chosen.
struct GroupRows {
  uint first;
  uint step;
  uint count;
  device const int* order;  // null: row r
  uint chosen;

  METAL_FUNC uint result(uint i) const { return first + i * step; }
  METAL_FUNC uint activations(uint i) const { return order != nullptr ? uint(order[result(i)]) / chosen : result(i); }
};

// As stage_unit.
template <typename T, int kTokens>
METAL_FUNC void stage_rows(threadgroup T* stage, device const T* x, GroupRows rows, uint first, uint stride, uint unit,
                           uint thread_index) {
  for (uint i = thread_index; i < kTokens * 8; i += kGemmSimdgroups * 32) {
    const uint token = i / 8, piece = i % 8;
    threadgroup T* to = stage + 8 * staged_piece(token, piece);
    if (first + token < rows.count) {
      copy_16_bytes(to, x + ulong(rows.activations(first + token)) * stride + unit * kUnit + 8 * piece);
    } else {
      *(threadgroup uint4*)to = uint4(0, 0, 0, 0);
    }
  }
}

// What multiplies a staged unit: a block of one of the matrices. registers(): a kernel's that sums up so many
// columns by it.
template <typename Codec, typename S>
struct QuantizedWeights {
  typedef half Element;
  static METAL_FUNC constexpr uint registers(uint columns) { return quantized_registers<Codec, S>(columns, 1); }
  BlockPointers block;
  device const float* minima;  // the block's
  constant TiledMatrix& m;

  template <int kColumns>
  METAL_FUNC void add(thread TileSums* sums, threadgroup const half* stage, uint unit, TileStage tiles) const {
    const UnitData<Codec, S> data = load_unit_data<Codec, S>(m, block, unit, tiles.lane);
    MM_UNROLL for (uint part = 0; part < S::kParts; ++part) {
      const float2 scale = part_scales<S>(m, data.scales, part);
      TileWeights<half> w[S::kTiles];
      MM_UNROLL for (uint t = 0; t < S::kTiles; ++t) w[t] = decode_tile<Codec>(data.codes, part * S::kTiles + t, m);
      MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c) {
        TileTokens<half> tokens[S::kTiles];
        load_staged<half, S::kGroup>(tokens, stage, 8 * c, part, tiles.lane);
        add_decoded<Codec, S::kTiles>(sums[c], w, tokens, scale, tiles);
        if (!S::kGeneral || m.minima == 0) continue;
        const uint place = scales_before(m, unit) + scale_place(m, part, tile_row(tiles.lane));
        add_minimum<S::kTiles>(sums[c], tokens, minimum_pair(m, minima, place, scale), tiles);
      }
    }
  }
};
template <typename Codec, typename S>
METAL_FUNC QuantizedWeights<Codec, S> quantized_weights(device const uchar* codes, device const uchar* scales,
                                                        device const float* minima, constant TiledMatrix& m,
                                                        ulong block) {
  const ulong scale_place = block * scales_of_block(m);
  return {{codes + block * m.units * (128 * Codec::kBits), scales + scale_place * bytes_of_scale(m)},
          minima + (m.minima != 0 ? scale_place : 0),
          m};
}

template <typename T>
struct DenseWeights {
  typedef T Element;
  static METAL_FUNC constexpr uint registers(uint columns) { return dense_registers(columns); }
  device const uint4* block;

  template <int kColumns>
  METAL_FUNC void add(thread TileSums* sums, threadgroup const T* stage, uint unit, TileStage tiles) const {
    MM_UNROLL for (uint part = 0; part < kUnitTiles / 2; ++part) {
      TileWeights<T> w[2];
      MM_UNROLL for (uint t = 0; t < 2; ++t) w[t] =
          weights_from<T>(block[(unit * kUnitTiles + 2 * part + t) * 32 + tiles.lane]);
      MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c) {
        TileTokens<T> tokens[2];
        load_staged<T, 32>(tokens, stage, 8 * c, part, tiles.lane);
        MM_UNROLL for (uint t = 0; t < 2; ++t) tile_multiply(sums[c], w[t], tokens[t], tiles);
      }
    }
  }
};

// The products of one block of rows a simdgroup with kColumns times 8 rows, from `first` on.
template <int kColumns, typename Weights>
METAL_FUNC void multiply_rows(thread TileSums* sums, Weights weights, device const typename Weights::Element* x,
                              GroupRows rows, uint first, uint units, uint stride,
                              threadgroup typename Weights::Element* stage, uint thread_index, TileStage tiles) {
  typedef typename Weights::Element T;
  constexpr uint kStage = 8 * kColumns * kUnit;
  stage_rows<T, 8 * kColumns>(stage, x, rows, first, stride, 0, thread_index);
  end_copies();
#pragma clang loop unroll(disable)
  for (uint unit = 0; unit < units; ++unit) {
    threadgroup const T* here = stage + (unit & 1u) * kStage;
    wait_for_copies<0>();
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (unit + 1 < units)
      stage_rows<T, 8 * kColumns>(stage + ((unit + 1) & 1u) * kStage, x, rows, first, stride, unit + 1, thread_index);
    end_copies();
    weights.template add<kColumns>(sums, here, unit, tiles);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

// As put_tile, to the rows of the group; sums lack `factor`, and their tokens' if x_scales is not null.
template <int kColumns>
METAL_FUNC void put_rows(threadgroup float* staged, const thread TileSums* sums, GroupRows rows, uint first,
                         uint row_tile, uint height, float factor, device const float* x_scales, device uchar* y,
                         constant LinearParams& p, uint simdgroup, uint lane, device const float* bias = nullptr) {
  MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c)
      store_sums(staged + 8 * c * kGemmSumStride + simdgroup * kTileRows, kGemmSumStride, sums[c], lane);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const uint tokens = min(uint(8 * kColumns), rows.count - first);
#pragma clang loop unroll(disable)
  for (uint i = simdgroup * 32 + lane; i < tokens * kGemmRows; i += kGemmSimdgroups * 32) {
    const uint row = row_tile * kGemmRows + i % kGemmRows, token = first + i / kGemmRows;
    if (row >= height) continue;
    const float sum = staged[i / kGemmRows * kGemmSumStride + i % kGemmRows] * factor;
    put_result(y, p, rows.result(token), row, x_scales != nullptr ? sum * x_scales[rows.activations(token)] : sum,
               bias);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);  // the stage is used again
}
