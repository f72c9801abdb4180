// Quantized matrix times many tokens. Weights go from device memory straight into
// each lane's fragments; activations are staged in threadgroup memory, two units
// ahead, and shared by the threadgroup's simdgroups.
#pragma once
#include "linear.h"

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

// kBlocks blocks of 16 rows a simdgroup, kColumns times 8 tokens a threadgroup.
// Grid: (row tiles, token tiles, parts of the inputs). With parts, sums go to
// `partial` [part][token][row] for reduce_parts.
template <typename Codec, typename S, int kBlocks, int kColumns>
METAL_FUNC void staged_gemm(device const uint* codes, device const uchar* scales, device const float* minima,
                            device const half* x, device uchar* y, device const float* bias,
                            device const float* x_scales, device float* partial, constant UnitMatrix& m,
                            constant LinearParams& p, uint3 group, uint3 groups, uint simdgroup, uint lane,
                            threadgroup half* stage) {
  const uint first_block = (group.x * kGemmSimdgroups + simdgroup) * kBlocks;
  const uint blocks = (m.rows + kTileRows - 1) / kTileRows;
  const uint first_token = group.y * 8 * kColumns;
  const uint per_part = (m.units + groups.z - 1) / groups.z;
  const uint begin = min(group.z * per_part, m.units), end = min(begin + per_part, m.units);
  const uint thread_index = simdgroup * 32 + lane;
  const uint stage_size = 8 * kColumns * kUnit;

  TileSums sums[kBlocks][kColumns];
  for (uint b = 0; b < uint(kBlocks); ++b) {
    for (uint c = 0; c < uint(kColumns); ++c) sums[b][c] = no_sums();
  }
  // Weights and activations are asked for two units before they are used.
  UnitData<Codec, S> queue[2][kBlocks];
  for (uint u = 0; u < 2; ++u) {
    for (uint b = 0; b < uint(kBlocks); ++b) {
      queue[u][b] = load_unit_data<Codec, S>(m, codes, scales, min(first_block + b, blocks - 1),
                                             min(begin + u, m.units - 1), lane);
    }
  }
  let_later_kernels_start();
  wait_for_earlier_kernels();
  for (uint u = 0; u < 2; ++u) {
    if (begin + u < end)
      stage_unit<half, 8 * kColumns>(stage + u * stage_size, x, first_token, p.tokens, p.x_stride, begin + u,
                                     thread_index);
    end_copies();
  }
  uint slot = 0;
#pragma clang loop unroll(disable)
  for (uint unit = begin; unit < end; ++unit) {
    threadgroup const half* here = stage + slot * stage_size;
    UnitData<Codec, S> now[kBlocks];
    for (uint b = 0; b < uint(kBlocks); ++b) {
      now[b] = queue[0][b];
      queue[0][b] = queue[1][b];
    }
    wait_for_copies<1>();
    threadgroup_barrier(mem_flags::mem_threadgroup);
    // The slot that was read in the last round.
    if (unit + 2 < end) {
      stage_unit<half, 8 * kColumns>(stage + (slot == 0 ? 2 : slot - 1) * stage_size, x, first_token, p.tokens,
                                     p.x_stride, unit + 2, thread_index);
      for (uint b = 0; b < uint(kBlocks); ++b)
        queue[1][b] = load_unit_data<Codec, S>(m, codes, scales, min(first_block + b, blocks - 1), unit + 2, lane);
    }
    end_copies();
    slot = slot == 2 ? 0 : slot + 1;
    for (uint part = 0; part < S::kParts; ++part) {
      TileWeights<half> w[kBlocks][S::kTiles];
      float2 scale[kBlocks], minimum[kBlocks];
      for (uint b = 0; b < uint(kBlocks); ++b) {
        scale[b] = part_scales<Codec, S>(m, now[b], part);
        if (S::kGeneral && m.minima != 0) {
          const ulong place = scale_place(m, min(first_block + b, blocks - 1), unit, part, tile_row(lane));
          minimum[b] = minimum_pair(m, minima, place, scale[b]);
        }
        for (uint t = 0; t < S::kTiles; ++t) w[b][t] = decode_tile<Codec>(now[b].codes, part * S::kTiles + t, m);
      }
      for (uint c = 0; c < uint(kColumns); ++c) {
        TileTokens<half> tokens[S::kTiles];
        load_staged<half, S::kGroup>(tokens, here, 8 * c, part, lane);
        for (uint b = 0; b < uint(kBlocks); ++b) {
          TileSums s = no_sums();
          for (uint t = 0; t < S::kTiles; ++t) tile_multiply(s, w[b][t], tokens[t]);
          for (uint i = 0; i < 4; ++i) sums[b][c].e[i] = fma(i < 2 ? scale[b].x : scale[b].y, s.e[i], sums[b][c].e[i]);
        }
        if (!S::kGeneral || m.minima == 0) continue;
        TileWeights<half> ones;
        for (uint q = 0; q < 4; ++q) ones.e[q] = half2(1.0h, 1.0h);
        TileSums s = no_sums();
        for (uint t = 0; t < S::kTiles; ++t) tile_multiply(s, ones, tokens[t]);
        for (uint b = 0; b < uint(kBlocks); ++b) {
          for (uint i = 0; i < 4; ++i)
            sums[b][c].e[i] = fma(i < 2 ? minimum[b].x : minimum[b].y, s.e[i], sums[b][c].e[i]);
        }
      }
    }
  }
  for (uint b = 0; b < uint(kBlocks); ++b) {
    for (uint c = 0; c < uint(kColumns); ++c) {
      if (groups.z == 1) {
        put_sums(y, p, m.rows, first_block + b, first_token + 8 * c, sums[b][c], bias, x_scales, lane);
        continue;
      }
      for (uint i = 0; i < 4; ++i) {
        const uint row = (first_block + b) * kTileRows + tile_row(lane) + 8 * (i / 2);
        const uint token = first_token + 8 * c + tile_column(lane) + i % 2;
        if (row < m.rows && token < p.tokens)
          partial[(ulong(group.z) * p.tokens + token) * m.rows + row] = sums[b][c].e[i];
      }
    }
  }
}

#define MM_STAGED_GEMM(kernel_name, blocks, columns)                                                                  \
  template <typename Codec, typename S>                                                                               \
  [[kernel, max_total_threads_per_threadgroup(128)]] void kernel_name(                                                \
      device const uint* codes [[buffer(0)]], device const uchar* scales [[buffer(1)]],                               \
      device const float* minima [[buffer(2)]], device const half* x [[buffer(3)]], device uchar* y [[buffer(4)]],    \
      device const float* bias [[buffer(5)]], device const float* x_scales [[buffer(6)]],                             \
      constant UnitMatrix& m [[buffer(7)]], constant LinearParams& p [[buffer(8)]],                                   \
      device float* partial [[buffer(9)]], uint3 group [[threadgroup_position_in_grid]],                              \
      uint3 groups [[threadgroups_per_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],                      \
      uint lane [[thread_index_in_simdgroup]]) {                                                                      \
    threadgroup half stage[3 * 8 * columns * 64];                                                                     \
    staged_gemm<Codec, S, blocks, columns>(codes, scales, minima, x, y, bias, x_scales, partial, m, p, group, groups, \
                                           simdgroup, lane, stage);                                                   \
  }
#define MM_STAGED_INSTANCE(kernel_name, host, Codec, group, general)                                             \
  template [[host_name(host)]] [[kernel, max_total_threads_per_threadgroup(128)]] void                           \
  kernel_name<Codec, Scaling<group, general>>(device const uint*, device const uchar*, device const float*,      \
                                              device const half*, device uchar*, device const float*,            \
                                              device const float*, constant UnitMatrix&, constant LinearParams&, \
                                              device float*, uint3, uint3, uint, uint);
