// Quantized matrix times many tokens. Weights go from device memory straight into
// each lane's fragments; activations are staged in threadgroup memory, two units
// ahead, and shared by the threadgroup's simdgroups.
#pragma once
#include "linear.h"
#include "unroll.h"

constant constexpr uint kGemmSimdgroups = 4;

// Copies a unit of kTokens tokens, zeros past the end, by all of the threadgroup.
template <typename T, int kTokens>
METAL_FUNC void stage_unit(threadgroup T* stage, device const T* x, uint first_token, uint tokens, uint stride,
                           uint unit, uint thread_index) {
  for (uint i = thread_index; i < kTokens * 8; i += kGemmSimdgroups * 32) {
    const uint token = i / 8, piece = i % 8;
    threadgroup T* to = stage + 8 * staged_piece(token, piece);
    if (first_token + token < tokens) {
      copy_16_bytes(to, x + ulong(first_token + token) * stride + unit * kUnit + 8 * piece);
    } else {
      *(threadgroup uint4*)to = uint4(0, 0, 0, 0);
    }
  }
}

// Rows of a threadgroup's tile, and floats between its tokens when sums are stored.
constant constexpr uint kGemmRows = kGemmSimdgroups * kTileRows;
constant constexpr uint kGemmSumStride = kGemmRows + 4;
// The threadgroup memory that stages `columns` times 8 tokens, in pieces of 16 bytes, as it is copied and read:
// three units of activations, then the sums.
METAL_FUNC constexpr uint stage_pieces(uint columns) {
  return 3 * 8 * columns * kUnit / 8;
}

// Finishes a tile: adds what surrounds the product, or hands on a part's sums.
// All of the threadgroup, after a barrier.
template <int kColumns>
METAL_FUNC void put_tile(threadgroup float* staged, const thread TileSums* sums, device uchar* y, device float* partial,
                         constant LinearParams& p, uint rows, float factor, device const float* bias,
                         device const float* x_scales, uint3 group, uint parts, uint simdgroup, uint lane) {
  MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c)
      store_sums(staged + 8 * c * kGemmSumStride + simdgroup * kTileRows, kGemmSumStride, sums[c], lane);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const uint first_token = group.y * 8 * kColumns;
  const uint tokens = min(uint(8 * kColumns), p.tokens - first_token);
#pragma clang loop unroll(disable)
  for (uint i = simdgroup * 32 + lane; i < tokens * kGemmRows; i += kGemmSimdgroups * 32) {
    const uint row = group.x * kGemmRows + i % kGemmRows, token = first_token + i / kGemmRows;
    if (row >= rows) continue;
    const float sum = staged[i / kGemmRows * kGemmSumStride + i % kGemmRows] * factor;
    if (parts > 1) {
      partial[(ulong(group.z) * p.tokens + token) * rows + row] = sum;
    } else {
      put_result(y, p, token, row, p.x_scales != 0 ? sum * x_scales[token] : sum, bias);
    }
  }
}

// A block of 16 rows a simdgroup, kColumns times 8 tokens a threadgroup. Grid: (row
// tiles, token tiles, parts of the inputs). With parts, sums go to `partial`
// [part][token][row] for marlin_reduce.
template <typename Codec, typename S, int kColumns>
METAL_FUNC void staged_gemm(device const uchar* codes, device const uchar* scales, device const float* minima,
                            device const half* x, device uchar* y, device const float* bias,
                            device const float* x_scales, device float* partial, constant TiledMatrix& m,
                            constant LinearParams& p, uint3 group, uint3 groups, uint simdgroup, uint lane,
                            threadgroup half* stage, threadgroup uchar* tiles) {
  MM_WITHIN_REGISTERS((quantized_registers<Codec, S>(kColumns, 3)));
  const TileStage tile_stage = {tiles + simdgroup * kTileStageBytes, lane};
  const uint blocks = (m.rows + kTileRows - 1) / kTileRows;
  const uint block_index = min(group.x * kGemmSimdgroups + simdgroup, blocks - 1);
  const BlockPointers block = block_pointers<Codec::kBits>(m, codes, scales, block_index);
  const uint first_token = group.y * 8 * kColumns;
  const uint per_part = (m.units + groups.z - 1) / groups.z;
  const uint begin = min(group.z * per_part, m.units), end = min(begin + per_part, m.units);
  const uint thread_index = simdgroup * 32 + lane;
  const uint stage_size = 8 * kColumns * kUnit;

  TileSums sums[kColumns];
  MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c) sums[c] = no_sums();
  // Weights and activations are asked for two units before they are used.
  UnitData<Codec, S> queue[2];
  MM_UNROLL for (uint u = 0; u < 2; ++u) queue[u] =
      load_unit_data<Codec, S>(m, block, min(begin + u, m.units - 1), lane);
  let_later_kernels_start();
  wait_for_earlier_kernels();
  MM_UNROLL for (uint u = 0; u < 2; ++u) {
    if (begin + u < end)
      stage_unit<half, 8 * kColumns>(stage + u * stage_size, x, first_token, p.tokens, p.x_stride, begin + u,
                                     thread_index);
    end_copies();
  }
  uint slot = 0;
#pragma clang loop unroll(disable)
  for (uint unit = begin; unit < end; ++unit) {
    threadgroup const half* here = stage + slot * stage_size;
    const UnitData<Codec, S> now = queue[0];
    queue[0] = queue[1];
    wait_for_copies<1>();
    threadgroup_barrier(mem_flags::mem_threadgroup);
    // The slot that was read in the last round.
    if (unit + 2 < end) {
      stage_unit<half, 8 * kColumns>(stage + (slot == 0 ? 2 : slot - 1) * stage_size, x, first_token, p.tokens,
                                     p.x_stride, unit + 2, thread_index);
      queue[1] = load_unit_data<Codec, S>(m, block, unit + 2, lane);
    }
    end_copies();
    slot = slot == 2 ? 0 : slot + 1;
    MM_UNROLL for (uint part = 0; part < S::kParts; ++part) {
      const float2 scale = part_scales<S>(m, now.scales, part);
      TileWeights<half> w[S::kTiles];
      MM_UNROLL for (uint t = 0; t < S::kTiles; ++t) w[t] = decode_tile<Codec>(now.codes, part * S::kTiles + t, m);
      MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c) {
        TileTokens<half> tokens[S::kTiles];
        load_staged<half, S::kGroup>(tokens, here, 8 * c, part, lane);
        add_decoded<Codec, S::kTiles>(sums[c], w, tokens, scale, tile_stage);
        if (!S::kGeneral || m.minima == 0) continue;
        const ulong place = ulong(block_index) * scales_of_block(m) + scales_before(m, unit);
        const float2 minimum = minimum_pair(m, minima + place, scale_place(m, part, tile_row(lane)), scale);
        add_minimum<S::kTiles>(sums[c], tokens, minimum, tile_stage);
      }
    }
  }
  wait_for_copies<0>();
  threadgroup_barrier(mem_flags::mem_threadgroup);
  put_tile<kColumns>((threadgroup float*)stage, sums, y, partial, p, m.rows, total_factor<Codec>(m), bias, x_scales,
                     group, groups.z, simdgroup, lane);
}

#define MM_STAGED_GEMM(kernel_name, columns)                                                                       \
  template <typename Codec, typename S>                                                                            \
  [[kernel, max_total_threads_per_threadgroup(128)]] void kernel_name(                                             \
      device const uchar* codes [[buffer(0)]], device const uchar* scales [[buffer(1)]],                           \
      device const float* minima [[buffer(2)]], device const half* x [[buffer(3)]], device uchar* y [[buffer(4)]], \
      device const float* bias [[buffer(5)]], device const float* x_scales [[buffer(6)]],                          \
      constant TiledMatrix& m [[buffer(7)]], constant LinearParams& p [[buffer(8)]],                               \
      device float* partial [[buffer(9)]], threadgroup uchar* tiles [[threadgroup(0)]],                            \
      uint3 group [[threadgroup_position_in_grid]], uint3 groups [[threadgroups_per_grid]],                        \
      uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {                \
    threadgroup uint4 memory[stage_pieces(columns)];                                                               \
    staged_gemm<Codec, S, columns>(codes, scales, minima, x, y, bias, x_scales, partial, m, p, group, groups,      \
                                   simdgroup, lane, (threadgroup half*)memory, tiles);                             \
  }
#define MM_STAGED_INSTANCE(kernel_name, host, Codec, group, general)                                              \
  template [[host_name(host)]] [[kernel, max_total_threads_per_threadgroup(128)]] void                            \
  kernel_name<Codec, Scaling<group, general>>(device const uchar*, device const uchar*, device const float*,      \
                                              device const half*, device uchar*, device const float*,             \
                                              device const float*, constant TiledMatrix&, constant LinearParams&, \
                                              device float*, threadgroup uchar*, uint3, uint3, uint, uint);
