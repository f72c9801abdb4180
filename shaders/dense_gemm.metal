// Unquantized weights. f16 and bf16 go through the matrix unit, in the kernel
// layout of eight pairs a lane and tile; f32 is multiplied in f32.
#include "common/block_product.h"
#include "common/staged_gemm.h"
#include "common/unroll.h"

template <typename T, int kColumns>
[[kernel, max_total_threads_per_threadgroup(128)]] void dense_gemm(
    device const uint4* weights [[buffer(0)]], device const T* x [[buffer(1)]], device uchar* y [[buffer(2)]],
    device const float* bias [[buffer(3)]], device const float* x_scales [[buffer(4)]], constant uint& rows [[buffer(5)]],
    constant uint& units [[buffer(6)]], constant LinearParams& p [[buffer(7)]],
    threadgroup uchar* tiles [[threadgroup(0)]], uint2 group [[threadgroup_position_in_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  MM_WITHIN_REGISTERS(dense_registers(kColumns));
  threadgroup uint4 memory[stage_pieces(kColumns)];
  threadgroup T* const stage = (threadgroup T*)memory;
  const TileStage tile_stage = {tiles + simdgroup * kTileStageBytes, lane};
  const uint block = group.x * kGemmSimdgroups + simdgroup;
  const uint last_block = (rows + kTileRows - 1) / kTileRows - 1;
  const uint first_token = group.y * 8 * kColumns;
  const uint thread_index = simdgroup * 32 + lane;
  TileSums sums[kColumns];
  MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c) sums[c] = no_sums();
  wait_for_earlier_kernels();
  stage_unit<T, 8 * kColumns>(stage, x, first_token, p.tokens, p.x_stride, 0, thread_index);
  end_copies();
#pragma clang loop unroll(disable)
  for (uint unit = 0; unit < units; ++unit) {
    threadgroup const T* here = stage + (unit & 1u) * (8 * kColumns * kUnit);
    wait_for_copies<0>();
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (unit + 1 < units) {
      stage_unit<T, 8 * kColumns>(stage + ((unit + 1) & 1u) * (8 * kColumns * kUnit), x, first_token, p.tokens,
                                  p.x_stride, unit + 1, thread_index);
    }
    end_copies();
    MM_UNROLL for (uint part = 0; part < kUnitTiles / 2; ++part) {
      TileWeights<T> w[2];
      MM_UNROLL for (uint t = 0; t < 2; ++t)
        w[t] = load_dense_tile<T>(weights, ulong(min(block, last_block)) * units + unit, 2 * part + t, lane);
      MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c) {
        TileTokens<T> tokens[2];
        load_staged<T, 32>(tokens, here, 8 * c, part, lane);
        MM_UNROLL for (uint t = 0; t < 2; ++t) tile_multiply(sums[c], w[t], tokens[t], tile_stage);
      }
    }
  }
  let_later_kernels_start();
  threadgroup_barrier(mem_flags::mem_threadgroup);
  put_tile<kColumns>((threadgroup float*)stage, sums, y, nullptr, p, rows, 1.0f, bias, x_scales,
                     uint3(group.x, group.y, 0), 1, simdgroup, lane);
}
#define MM_DENSE(T, columns)                                                                                         \
  template [[host_name("dense_gemm_" #T "_" #columns)]] [[kernel, max_total_threads_per_threadgroup(128)]]           \
  void dense_gemm<T, columns>(device const uint4*, device const T*, device uchar*, device const float*,              \
                              device const float*, constant uint&, constant uint&, constant LinearParams&,           \
                              threadgroup uchar*, uint2, uint, uint);
MM_DENSE(half, 1)
MM_DENSE(half, 8)
MM_DENSE(bfloat, 1)
MM_DENSE(bfloat, 8)

// Rows picked out, as an embedding does. One simdgroup a unit: grid (units, ids), threadgroups of 32.
template <typename T>
[[kernel]] void dense_embed(device const uint4* weights [[buffer(0)]], device const int* ids [[buffer(1)]],
                            device float* out [[buffer(2)]], constant uint& units [[buffer(3)]],
                            constant uint& cols [[buffer(4)]], uint2 at [[threadgroup_position_in_grid]],
                            uint lane [[thread_index_in_simdgroup]]) {
  const uint id = uint(ids[at.y]);
  if (tile_row(lane) != id % 8) return;
  MM_UNROLL for (uint tile = 0; tile < kUnitTiles; ++tile) {
    const TileWeights<T> w = load_dense_tile<T>(weights, ulong(id / kTileRows) * units + at.x, tile, lane);
    MM_UNROLL for (uint q = 0; q < 4; ++q) {
      if (q % 2 != id % kTileRows / 8) continue;
      MM_UNROLL for (uint e = 0; e < 2; ++e) {
        const uint k = at.x * kUnit + tile_input(tile, tile_column(lane) + 8 * (q / 2) + e, false);
        if (k < cols) out[ulong(at.y) * cols + k] = float(w.e[q][e]);
      }
    }
  }
}
template [[host_name("dense_embed_half")]] [[kernel]] void dense_embed<half>(device const uint4*, device const int*,
                                                                             device float*, constant uint&,
                                                                             constant uint&, uint2, uint);
template [[host_name("dense_embed_bfloat")]] [[kernel]] void dense_embed<bfloat>(device const uint4*, device const int*,
                                                                                 device float*, constant uint&,
                                                                                 constant uint&, uint2, uint);

// In f32, weights row by row as files have them. One simdgroup a row and 4
// tokens: grid (rows, tokens / 4) of threadgroups.
METAL_FUNC void put_exact(device uchar* y, constant LinearParams& p, uint row, uint first_token, float4 sums,
                          device const float* bias, uint lane) {
  MM_UNROLL for (uint t = 0; t < 4; ++t) {
    const float total = simd_sum(sums[t]);
    if (lane == 0 && first_token + t < p.tokens) put_result(y, p, first_token + t, row, total, bias);
  }
}

[[kernel, max_total_threads_per_threadgroup(32)]] void dense_gemm_f32(
    device const float* weights [[buffer(0)]], device const float* x [[buffer(1)]], device uchar* y [[buffer(2)]],
    device const float* bias [[buffer(3)]], constant uint& rows [[buffer(4)]], constant uint& cols [[buffer(5)]],
    constant LinearParams& p [[buffer(6)]], uint2 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]]) {
  const uint first_token = group.y * 4;
  float4 sums = float4(0.0f);
  for (uint k = lane; k < cols; k += 32) {
    const float w = weights[ulong(group.x) * cols + k];
    MM_UNROLL for (uint t = 0; t < 4; ++t) {
      if (first_token + t < p.tokens) sums[t] = fma(w, x[ulong(first_token + t) * p.x_stride + k], sums[t]);
    }
  }
  put_exact(y, p, group.x, first_token, sums, bias, lane);
}

// A block of 16 rows times a token, by one simdgroup.
template <typename Blocks>
METAL_FUNC void put_exact_block(Blocks blocks, threadgroup float2* all, device const float* x, uint cols, uint units,
                                float factor, uint2 group, uint rows, device uchar* y, constant LinearParams& p,
                                device const float* bias, uint lane) {
  float2 sums = float2(0.0f);
#pragma clang loop unroll(disable)
  for (uint unit = 0; unit < units; ++unit)
    sums += blocks.product(group.x, unit, x + ulong(group.y) * p.x_stride, cols, lane);
  all[lane] = sums;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const uint row = group.x * kTileRows + lane;
  if (lane < 16 && row < rows) put_result(y, p, group.y, row, block_row_sum(all, 1, lane) * factor, bias);
}

// f16 and bf16 weights in the exact mode: multiplied in f32. One simdgroup 16 rows
// and a token: grid (blocks, tokens).
template <typename T>
[[kernel, max_total_threads_per_threadgroup(32)]] void dense_exact(
    device const uchar* weights [[buffer(0)]], device const float* x [[buffer(1)]], device uchar* y [[buffer(2)]],
    device const float* bias [[buffer(3)]], constant uint& rows [[buffer(4)]], constant uint& cols [[buffer(5)]],
    constant uint& units [[buffer(6)]], constant LinearParams& p [[buffer(7)]],
    uint2 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float2 all[32];
  const DenseBlocks<T> blocks = {weights, units};
  put_exact_block(blocks, all, x, cols, units, 1.0f, group, rows, y, p, bias, lane);
}
#define MM_DENSE_EXACT(T)                                                                                           \
  template [[host_name("dense_exact_" #T)]] [[kernel, max_total_threads_per_threadgroup(32)]] void dense_exact<T>(  \
      device const uchar*, device const float*, device uchar*, device const float*, constant uint&, constant uint&, \
      constant uint&, constant LinearParams&, uint2, uint);
MM_DENSE_EXACT(half)
MM_DENSE_EXACT(bfloat)

// The exact mode of the quantized formats: decoded and multiplied in f32. One
// simdgroup 16 rows and a token: grid (blocks, tokens).
template <typename Codec>
[[kernel, max_total_threads_per_threadgroup(32)]] void exact_gemm(
    device const uchar* codes [[buffer(0)]], device const uchar* scales [[buffer(1)]],
    device const float* minima [[buffer(2)]], device const float* x [[buffer(3)]], device uchar* y [[buffer(4)]],
    device const float* bias [[buffer(5)]], constant TiledMatrix& m [[buffer(6)]], constant LinearParams& p [[buffer(7)]],
    constant uint& cols [[buffer(8)]], uint2 group [[threadgroup_position_in_grid]],
    uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float2 all[32];
  const QuantizedBlocks<Codec> blocks = {codes, scales, minima, m};
  put_exact_block(blocks, all, x, cols, m.units, m.multiplier, group, m.rows, y, p, bias, lane);
}
#define MM_EXACT(name, Codec)                                                                                        \
  template [[host_name("exact_gemm_" #name)]] [[kernel, max_total_threads_per_threadgroup(32)]]                      \
  void exact_gemm<Codec>(device const uchar*, device const uchar*, device const float*, device const float*,          \
                         device uchar*, device const float*, constant TiledMatrix&, constant LinearParams&,           \
                         constant uint&, uint2, uint);
MM_FOR_EACH_CODEC(MM_EXACT)
