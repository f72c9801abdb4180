// The quantized product in every legal tile: kSimdgroups blocks of 16 rows by kColumns times 8
// tokens. src/backends/msl/autotune.h checks each against the exact product, times it on the
// device at hand, and keeps the fastest.
#include "common/grouped_gemm.h"
#include "common/unroll.h"

// As stage_rows, by kSimdgroups.
template <int kTokens, int kSimdgroups>
METAL_FUNC void stage_tokens(threadgroup half* stage, device const half* x, uint first, uint tokens, uint stride,
                             uint unit, uint thread_index) {
  for (uint i = thread_index; i < kTokens * 8; i += kSimdgroups * 32) {
    const uint token = i / 8, piece = i % 8;
    threadgroup half* to = stage + 8 * staged_piece(token, piece);
    if (first + token < tokens) {
      copy_16_bytes(to, x + ulong(first + token) * stride + unit * kUnit + 8 * piece);
    } else {
      *(threadgroup uint4*)to = uint4(0, 0, 0, 0);
    }
  }
}

constexpr uint tuned_stage_bytes(uint simdgroups, uint columns) {
  return 2 * 8 * columns * 64 * 2 > 8 * columns * (16 * simdgroups + 4) * 4 ? 2 * 8 * columns * 64 * 2
                                                                          : 8 * columns * (16 * simdgroups + 4) * 4;
}

// Grid: (row tiles, token tiles).
template <typename Codec, typename S, int kColumns, int kSimdgroups>
[[kernel, max_total_threads_per_threadgroup(256)]] void tuned_gemm(
    device const uchar* codes [[buffer(0)]], device const uchar* scales [[buffer(1)]],
    device const float* minima [[buffer(2)]], device const half* x [[buffer(3)]],
    device const float* x_scales [[buffer(4)]], device uchar* y [[buffer(5)]], constant TiledMatrix& m [[buffer(6)]],
    constant LinearParams& p [[buffer(7)]], threadgroup uchar* tiles [[threadgroup(0)]],
    uint2 group [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  MM_WITHIN_REGISTERS((QuantizedWeights<Codec, S>::registers(kColumns)));
  constexpr uint kBytes = tuned_stage_bytes(kSimdgroups, kColumns), kStage = 8 * kColumns * kUnit;
  constexpr uint kRows = kSimdgroups * kTileRows, kStride = kRows + 4;
  static_assert(kBytes <= 32768, "more threadgroup memory than there is");
  threadgroup uint4 memory[kBytes / 16];
  threadgroup half* const stage = (threadgroup half*)memory;
  threadgroup float* const staged = (threadgroup float*)memory;
  const TileStage tile_stage = {tiles + simdgroup * kTileStageBytes, lane};
  const uint thread_index = simdgroup * 32 + lane, first = group.y * 8 * kColumns;
  const uint block = min(group.x * kSimdgroups + simdgroup, (m.rows + kTileRows - 1) / kTileRows - 1);
  const auto weights = quantized_weights<Codec, S>(codes, scales, minima, m, block);
  TileSums sums[kColumns];
  MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c) sums[c] = no_sums();
  stage_tokens<8 * kColumns, kSimdgroups>(stage, x, first, p.tokens, p.x_stride, 0, thread_index);
  end_copies();
#pragma clang loop unroll(disable)
  for (uint unit = 0; unit < m.units; ++unit) {
    wait_for_copies<0>();
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (unit + 1 < m.units)
      stage_tokens<8 * kColumns, kSimdgroups>(stage + ((unit + 1) & 1u) * kStage, x, first, p.tokens, p.x_stride,
                                              unit + 1, thread_index);
    end_copies();
    weights.template add<kColumns>(sums, stage + (unit & 1u) * kStage, unit, tile_stage);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c)
    store_sums(staged + 8 * c * kStride + simdgroup * kTileRows, kStride, sums[c], lane);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const uint tokens = min(uint(8 * kColumns), p.tokens - first);
#pragma clang loop unroll(disable)
  for (uint i = thread_index; i < tokens * kRows; i += kSimdgroups * 32) {
    const uint row = group.x * kRows + i % kRows, token = first + i / kRows;
    if (row >= m.rows) continue;
    put_result(y, p, token, row, staged[i / kRows * kStride + i % kRows] * total_factor<Codec>(m) * x_scales[token],
               nullptr);
  }
}

#define MM_TUNED_FOR(name, Codec, group, general, suffix, columns, simdgroups)                                        \
  template [[host_name("tuned_gemm_" #name suffix "_" #simdgroups "_" #columns)]]                                     \
  [[kernel, max_total_threads_per_threadgroup(256)]] void                                                             \
  tuned_gemm<Codec, Scaling<group, general>, columns, simdgroups>(                                                    \
      device const uchar*, device const uchar*, device const float*, device const half*, device const float*,         \
      device uchar*, constant TiledMatrix&, constant LinearParams&, threadgroup uchar*, uint2, uint, uint);
// As kTuned in src/backends/msl/autotune.cpp.
#define MM_TUNED(name, Codec, group, general, suffix)       \
  MM_TUNED_FOR(name, Codec, group, general, suffix, 1, 2)   \
  MM_TUNED_FOR(name, Codec, group, general, suffix, 2, 2)   \
  MM_TUNED_FOR(name, Codec, group, general, suffix, 4, 2)   \
  MM_TUNED_FOR(name, Codec, group, general, suffix, 8, 2)   \
  MM_TUNED_FOR(name, Codec, group, general, suffix, 1, 4)   \
  MM_TUNED_FOR(name, Codec, group, general, suffix, 2, 4)   \
  MM_TUNED_FOR(name, Codec, group, general, suffix, 4, 4)   \
  MM_TUNED_FOR(name, Codec, group, general, suffix, 8, 4)   \
  MM_TUNED_FOR(name, Codec, group, general, suffix, 1, 8)   \
  MM_TUNED_FOR(name, Codec, group, general, suffix, 2, 8)   \
  MM_TUNED_FOR(name, Codec, group, general, suffix, 4, 8)
MM_TUNED(e2m1, codecs::E2m1, 16, false, "_g16")
MM_TUNED(e2m1, codecs::E2m1, 32, false, "_g32")
MM_TUNED(int4, codecs::Integer<4>, 32, false, "_g32")
MM_TUNED(int4, codecs::Integer<4>, 64, false, "_g64")
