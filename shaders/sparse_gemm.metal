// 2:4 sparse quantized weights: of each 4 neighbouring inputs of a row two are kept, as 4-bit
// codes and their positions of 2 bits; decoded to dense fragments in registers. Blocks of 16
// rows, units of 64 inputs: values [row][16 groups] a byte each (the earlier in the low bits),
// then positions [row][16 groups] of 4 bits. Scales as in common/unit_layout.h.
#include "common/block_product.h"
#include "common/grouped_gemm.h"
#include "common/unroll.h"

constant constexpr uint kSparseUnitBytes = 16 * 16 + 16 * 8;

// Two codes of a group, and where they stand.
struct SparseGroup {
  uint codes;
  uint positions;
};
METAL_FUNC SparseGroup sparse_group(device const uchar* unit, uint row, uint group) {
  return {uint(unit[row * 16 + group]), uint(unit[256 + row * 8 + group / 2]) >> group % 2 * 4 & 15u};
}

// Elements k and k + 1 of a row (k even, of the unit) in half precision.
template <typename Codec>
METAL_FUNC half2 sparse_pair(device const uchar* unit, uint row, uint k, constant TiledMatrix& m) {
  const SparseGroup g = sparse_group(unit, row, k / 4);
  const half2 v = Codec::pair((g.codes & 15u) | g.codes >> 4 << 16, m);
  const uint first = g.positions & 3u, second = g.positions >> 2, at = k % 4;
  return half2(first == at ? v.x : second == at ? v.y : 0.0h, first == at + 1 ? v.x : second == at + 1 ? v.y : 0.0h);
}

// As QuantizedWeights.
template <typename Codec, typename S>
struct SparseWeights {
  typedef half Element;
  // A pair's codes and positions at a time.
  static METAL_FUNC constexpr uint registers(uint columns) {
    return gemm_registers(columns, S::kWords + 4, S::kTiles, S::kTiles);
  }
  device const uchar* block;
  device const uchar* scales;  // the block's
  constant TiledMatrix& m;

  template <int kColumns>
  METAL_FUNC void add(thread TileSums* sums, threadgroup const half* stage, uint unit, TileStage tiles) const {
    device const uchar* const at = block + unit * kSparseUnitBytes;
    uint scale_words[S::kWords];
    load_scales<S, FromDevice>(scale_words, m, scales + scales_offset<S>(m, unit), tiles.lane);
    const uint row = tile_row(tiles.lane), column = tile_column(tiles.lane);
    MM_UNROLL for (uint part = 0; part < S::kParts; ++part) {
      TileWeights<half> w[S::kTiles];
      MM_UNROLL for (uint t = 0; t < S::kTiles; ++t)
        MM_UNROLL for (uint q = 0; q < 4; ++q)
          w[t].e[q] = matrix_pair<Codec>(sparse_pair<Codec>(
              at, row + 8 * (q % 2), tile_input(part * S::kTiles + t, column + 8 * (q / 2), S::kBy16), m));
      const float2 scale = part_scales<S>(m, scale_words, part);
      MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c) {
        TileTokens<half> tokens[S::kTiles];
        load_staged<half, S::kGroup>(tokens, stage, 8 * c, part, tiles.lane);
        add_decoded<Codec, S::kTiles>(sums[c], w, tokens, scale, tiles);
      }
    }
  }
};

// Grid: (row tiles, token tiles).
template <typename Codec, typename S, int kColumns>
[[kernel, max_total_threads_per_threadgroup(128)]] void sparse_gemm(
    device const uchar* codes [[buffer(0)]], device const uchar* scales [[buffer(1)]],
    device const half* x [[buffer(2)]], device const float* x_scales [[buffer(3)]], device uchar* y [[buffer(4)]],
    constant TiledMatrix& m [[buffer(5)]], constant LinearParams& p [[buffer(6)]],
    device const float* bias [[buffer(7)]], threadgroup uchar* tiles [[threadgroup(0)]], uint2 group [[threadgroup_position_in_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup uint4 memory[stage_pieces(kColumns)];
  threadgroup half* const stage = (threadgroup half*)memory;
  const TileStage tile_stage = {tiles + simdgroup * kTileStageBytes, lane};
  const ulong block = min(group.x * kGemmSimdgroups + simdgroup, (m.rows + kTileRows - 1) / kTileRows - 1);
  const SparseWeights<Codec, S> weights = {codes + block * m.units * kSparseUnitBytes,
                                           scales + block * scales_of_block(m) * bytes_of_scale(m), m};
  MM_WITHIN_REGISTERS((SparseWeights<Codec, S>::registers(kColumns)));
  const GroupRows all = {0, 1, p.tokens, nullptr, 1};
  TileSums sums[kColumns];
  MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c) sums[c] = no_sums();
  multiply_rows<kColumns>(sums, weights, x, all, group.y * 8 * kColumns, m.units, p.x_stride, stage,
                          simdgroup * 32 + lane, tile_stage);
  put_rows<kColumns>((threadgroup float*)stage, sums, all, group.y * 8 * kColumns, group.x, m.rows,
                     total_factor<Codec>(m), x_scales, y, p, simdgroup, lane, bias);
}

// In f32, activations as they are. As DenseBlocks in common/block_product.h.
template <typename Codec>
struct SparseBlocks {
  device const uchar* codes;
  device const uchar* scales;
  constant TiledMatrix& m;

  METAL_FUNC float2 product(ulong block, uint unit, device const float* x, uint cols, uint lane) const {
    device const uchar* const at = codes + (block * m.units + unit) * kSparseUnitBytes;
    const uint row = tile_row(lane);
    float2 sums = float2(0.0f);
    MM_UNROLL for (uint tile = 0; tile < kUnitTiles; ++tile) {
      const uint part = tile >> (m.group_shift < 6 ? m.group_shift - 4 : 2);
      const float2 scale =
          stored_scales(m, scales, block * scales_of_block(m) + scales_before(m, unit) + scale_place(m, part, row));
      MM_UNROLL for (uint pair = 0; pair < 2; ++pair) {
        const uint in = tile_input(tile, tile_column(lane) + 8 * pair, m.group_shift == 4), k = unit * kUnit + in;
        const half2 a = sparse_pair<Codec>(at, row, in, m), b = sparse_pair<Codec>(at, row + 8, in, m);
        MM_UNROLL for (uint e = 0; e < 2; ++e)
          if (k + e < cols) sums = fma(scale * float2(float(a[e]), float(b[e])), float2(x[k + e]), sums);
      }
    }
    return sums;
  }
};
// One simdgroup 16 rows and a token: grid (blocks, tokens).
template <typename Codec>
[[kernel, max_total_threads_per_threadgroup(32)]] void sparse_exact(
    device const uchar* codes [[buffer(0)]], device const uchar* scales [[buffer(1)]],
    device const float* x [[buffer(2)]], device uchar* y [[buffer(3)]], constant TiledMatrix& m [[buffer(4)]],
    constant LinearParams& p [[buffer(5)]], constant uint& cols [[buffer(6)]], device const float* bias [[buffer(7)]],
    uint2 group [[threadgroup_position_in_grid]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float2 all[32];
  const SparseBlocks<Codec> blocks = {codes, scales, m};
  float2 sums = float2(0.0f);
#pragma clang loop unroll(disable)
  for (uint unit = 0; unit < m.units; ++unit)
    sums += blocks.product(group.x, unit, x + ulong(group.y) * p.x_stride, cols, lane);
  all[lane] = sums;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const uint row = group.x * kTileRows + lane;
  if (lane < 16 && row < m.rows)
    put_result(y, p, group.y, row, block_row_sum(all, 1, lane) * m.multiplier * Codec::kFactor, bias);
}

#define MM_SPARSE_FOR(name, Codec, group, suffix, columns)                                                            \
  template [[host_name("sparse_gemm_" #name suffix "_" #columns)]]                                                    \
  [[kernel, max_total_threads_per_threadgroup(128)]] void sparse_gemm<Codec, Scaling<group, true>, columns>(          \
      device const uchar*, device const uchar*, device const half*, device const float*, device uchar*,               \
      constant TiledMatrix&, constant LinearParams&, device const float*, threadgroup uchar*, uint2, uint, uint);
#define MM_SPARSE_GEMM(name, Codec)                                                                              \
  MM_SPARSE_FOR(name, Codec, 32, "", 1)                                                                          \
  MM_SPARSE_FOR(name, Codec, 32, "", 4)                                                                          \
  MM_SPARSE_FOR(name, Codec, 16, "_by16", 1)                                                                     \
  MM_SPARSE_FOR(name, Codec, 16, "_by16", 4)                                                                     \
  template [[host_name("sparse_exact_" #name)]] [[kernel, max_total_threads_per_threadgroup(32)]] void           \
  sparse_exact<Codec>(device const uchar*, device const uchar*, device const float*, device uchar*,              \
                      constant TiledMatrix&, constant LinearParams&, constant uint&, device const float*, uint2, uint);
MM_SPARSE_GEMM(e2m1, codecs::E2m1)
MM_SPARSE_GEMM(int4, codecs::Integer<4>)
