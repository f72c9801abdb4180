// Quantized matrix times few tokens: y = W x for up to 32 tokens. A threadgroup makes
// a band of kRowTiles blocks of 16 rows at a time, all of them from the activations
// that it reads once; its simdgroups share out the inputs and add up in order.
#include "common/unit_stream.h"

// Adds the products of kCount units of a band, whose last block is `last`.
template <int kCount, typename Codec, typename S, int kColumns, int kRowTiles>
METAL_FUNC void add_units(thread TileSums (&sums)[kRowTiles][kColumns],
                          thread UnitStream<Codec, S, kColumns, kRowTiles>& stream, constant UnitMatrix& m,
                          BlockPointers band, uint last, device const float* minima, uint unit, TileStage stage) {
  // Blocks at a time: as many as there are registers for.
  constexpr uint kBlocks = kRowTiles == 1 || kColumns == 4 ? 1 : 2;
  TileTokens<half> tokens[kCount][kColumns][kUnitTiles];
  stream.template open<kCount>(tokens, unit);
#pragma clang loop unroll(full)
  for (uint first = 0; first < uint(kRowTiles); first += kBlocks) {
    UnitData<Codec, S> data[kCount][kBlocks];
    for (uint i = 0; i < uint(kCount); ++i)
      for (uint b = 0; b < kBlocks; ++b) data[i][b] = stream.weights(m, band, first + b, last, unit + i, i);
    if (first + kBlocks == uint(kRowTiles)) stream.template close<kCount>(m);
    for (uint i = 0; i < uint(kCount); ++i) {
      for (uint b = 0; b < kBlocks; ++b) {
        const uint tile = first + b;
        device const float* of_unit = minima + min(tile, last) * scales_of_block(m) + scales_before(m, unit + i);
        add_unit<Codec, S, kColumns>(sums[tile], data[i][b], tokens[i], m, of_unit, stage);
      }
    }
    simdgroup_barrier(mem_flags::mem_none);  // so that the next weights are not loaded before
  }
}

// `shared` has `plan.region` bytes for each simdgroup. Grid: threadgroups that take
// the bands in turn.
template <typename Codec, typename S, int kColumns, int kRowTiles>
[[kernel, max_total_threads_per_threadgroup(256)]] void decode_gemv(
    device const uchar* codes [[buffer(0)]], device const uchar* scales [[buffer(1)]],
    device const float* minima [[buffer(2)]], device const half* x [[buffer(3)]], device uchar* y [[buffer(4)]],
    device const float* bias [[buffer(5)]], device const float* x_scales [[buffer(6)]],
    constant UnitMatrix& m [[buffer(7)]], constant LinearParams& p [[buffer(8)]],
    constant StreamPlan& plan [[buffer(9)]], threadgroup uchar* shared [[threadgroup(0)]],
    uint group [[threadgroup_position_in_grid]], uint groups [[threadgroups_per_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint simdgroups [[simdgroups_per_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  const uint per_simdgroup = (m.units + simdgroups - 1) / simdgroups;
  const uint begin = min(simdgroup * per_simdgroup, m.units), end = min(begin + per_simdgroup, m.units);
  threadgroup uchar* const region = shared + simdgroup * plan.region;
  const TileStage tiles = {region + plan.tiles, lane};
  BlockPointers block = block_pointers<Codec::kBits>(m, codes, scales, group * kRowTiles);
  UnitStream<Codec, S, kColumns, kRowTiles> stream;
  stream.start(m, p, plan, block, group, groups, x, region, begin, end, lane);
  const uint kRows = kRowTiles * kTileRows;
  const uint sum_stride = kRows + 4;  // spreads a tile's columns over the banks
  const uint bands = (m.rows + kRows - 1) / kRows;
  uint half_of_sums = 0;
  // Asked for before it is needed.
  const uint thread_index = simdgroup * 32 + lane, results = p.tokens * kRows;
  const float first_x_scale = thread_index < results ? x_scales[thread_index / kRows] : 0.0f;
#pragma clang loop unroll(disable)
  for (uint band = group; band < bands; band += groups) {
    TileSums sums[kRowTiles][kColumns];
    for (uint tile = 0; tile < uint(kRowTiles); ++tile)
      for (uint c = 0; c < uint(kColumns); ++c) sums[tile][c] = no_sums();
    device const float* of_band = minima + ulong(band * kRowTiles) * scales_of_block(m);
    const uint last = last_of_band<kRowTiles>(m, band);
    // Two tiles of weights at a time, so that one's multiplications fill the other's waits.
    const int kAtOnce = kRowTiles == 1 ? 2 : 1;
    uint unit = begin;
    if ((end - begin) % kAtOnce != 0) add_units<1>(sums, stream, m, block, last, of_band, unit++, tiles);
#pragma clang loop unroll(disable)
    for (; unit < end; unit += kAtOnce) add_units<kAtOnce>(sums, stream, m, block, last, of_band, unit, tiles);
    // Two places for sums, if there are more bands: while they are read, the next
    // ones are stored.
    for (uint tile = 0; tile < uint(kRowTiles); ++tile)
      for (uint c = 0; c < uint(kColumns); ++c)
        store_sums((threadgroup float*)(region + half_of_sums) + kTileTokens * c * sum_stride + kTileRows * tile,
                   sum_stride, sums[tile][c], lane);
    threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma clang loop unroll(disable)
    for (uint i = thread_index; i < results; i += 32 * simdgroups) {
      const uint token = i / kRows, row = i % kRows;
      threadgroup const uchar* at = shared + half_of_sums + (token * sum_stride + row) * 4;
      float sum = 0.0f;
#pragma clang loop unroll(disable)
      for (uint s = 0; s < simdgroups; ++s) sum += *(threadgroup const float*)(at + s * plan.region);
      const float x_scale = i == thread_index ? first_x_scale : x_scales[token];
      if (band * kRows + row < m.rows)
        put_result(y, p, token, band * kRows + row, sum * total_factor<Codec>(m) * x_scale, bias);
    }
    half_of_sums = kColumns * kTileTokens * sum_stride * 4 - half_of_sums;
    block = block_pointers<Codec::kBits>(m, block.codes, block.scales, groups * kRowTiles);
  }
}

#define MM_GEMV_FOR(name, Codec, group, general, suffix, columns, row_tiles)                                       \
  template [[host_name("decode_gemv_" #name suffix "_" #columns "x" #row_tiles)]]                                  \
  [[kernel, max_total_threads_per_threadgroup(256)]] void                                                          \
  decode_gemv<Codec, Scaling<group, general>, columns, row_tiles>(                                                 \
      device const uchar*, device const uchar*, device const float*, device const half*, device uchar*,            \
      device const float*, device const float*, constant UnitMatrix&, constant LinearParams&, constant StreamPlan&, \
      threadgroup uchar*, uint, uint, uint, uint, uint);
// For 8 and 16 tokens; for the most common scales also for 32, and with more or fewer
// rows, as gemv_tile in src/backends/msl/linear.cpp picks.
#define MM_GEMV_GENERAL(name, Codec, group, suffix)      \
  MM_GEMV_FOR(name, Codec, group, true, suffix, 1, 1)    \
  MM_GEMV_FOR(name, Codec, group, true, suffix, 2, 2)
#define MM_GEMV(name, Codec)                      \
  MM_GEMV_GENERAL(name, Codec, 32, "")            \
  MM_GEMV_GENERAL(name, Codec, 16, "_by16")
#define MM_GEMV_COMMON(name, Codec, group, suffix)       \
  MM_GEMV_FOR(name, Codec, group, false, suffix, 1, 1)   \
  MM_GEMV_FOR(name, Codec, group, false, suffix, 1, 2)   \
  MM_GEMV_FOR(name, Codec, group, false, suffix, 2, 2)   \
  MM_GEMV_FOR(name, Codec, group, false, suffix, 2, 4)   \
  MM_GEMV_FOR(name, Codec, group, false, suffix, 4, 2)
MM_GEMV(e2m1, codecs::E2m1)
MM_GEMV(int4, codecs::Integer<4>)
MM_GEMV(nf4, codecs::Nf4)
MM_GEMV(iq4nl, codecs::Iq4Nl)
MM_GEMV(int2, codecs::Integer<2>)
MM_GEMV(int3, codecs::Integer<3>)
MM_GEMV(int5, codecs::Integer<5>)
MM_GEMV(int6, codecs::Integer<6>)
MM_GEMV(int8, codecs::Integer<8>)
MM_GEMV(nf2, codecs::Nf2)
MM_GEMV(nf3, codecs::Nf3)
MM_GEMV(e4m3, codecs::E4m3)
MM_GEMV(e5m2, codecs::E5m2)
MM_GEMV_COMMON(e2m1, codecs::E2m1, 16, "_g16")
MM_GEMV_COMMON(e2m1, codecs::E2m1, 32, "_g32")
MM_GEMV_COMMON(e2m1, codecs::E2m1, 64, "_g64")
MM_GEMV_COMMON(int4, codecs::Integer<4>, 32, "_g32")
MM_GEMV_COMMON(int4, codecs::Integer<4>, 64, "_g64")
MM_GEMV_COMMON(int8, codecs::Integer<8>, 32, "_g32")
MM_GEMV_COMMON(e4m3, codecs::E4m3, 32, "_g32")
