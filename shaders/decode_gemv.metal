// Quantized matrix times few tokens: y = W x for up to 32 tokens. A threadgroup makes
// a band of two blocks of 16 rows, both from the activations that it reads once; its
// simdgroups share out the inputs and add up in order.
#include "common/unit_stream.h"
#include "common/unroll.h"

// Blocks that are multiplied at a time: as many as there are registers for.
METAL_FUNC constexpr uint blocks_at_once(uint columns) {
  return columns == 4 ? 1 : kBandBlocks;
}
// Adds the products of a unit of a band, whose last block is `last`.
template <typename Codec, typename S, int kColumns>
METAL_FUNC void add_band(thread TileSums (&sums)[kBandBlocks][kColumns], thread UnitStream<Codec, S, kColumns>& stream,
                         constant TiledMatrix& m, uint last, device const float* minima, uint unit, TileStage stage) {
  constexpr uint kBlocks = blocks_at_once(kColumns);
  TileTokens<half> tokens[kColumns][kUnitTiles];
  stream.open(tokens, unit);
#pragma clang loop unroll(full)
  for (uint first = 0; first < kBandBlocks; first += kBlocks) {
    UnitData<Codec, S> data[kBlocks];
    MM_UNROLL for (uint i = 0; i < kBlocks; ++i) data[i] = stream.weights(m, first + i, unit);
    if (first + kBlocks == kBandBlocks) stream.close(m);
    MM_UNROLL for (uint i = 0; i < kBlocks; ++i) {
      const uint block = first + i;
      device const float* of_unit = minima + min(block, last) * scales_of_block(m) + scales_before(m, unit);
      add_unit<Codec, S, kColumns>(sums[block], data[i], tokens, m, of_unit, stage);
    }
    simdgroup_barrier(mem_flags::mem_none);  // so that the next weights are not loaded before
  }
}

// `shared` has `plan.region` bytes for each simdgroup. Grid: a threadgroup a band.
template <typename Codec, typename S, int kColumns>
[[kernel, max_total_threads_per_threadgroup(256)]]
void decode_gemv(
    device const uchar* codes [[buffer(0)]], device const uchar* scales [[buffer(1)]],
    device const float* minima [[buffer(2)]], device const half* x [[buffer(3)]], device uchar* y [[buffer(4)]],
    device const float* bias [[buffer(5)]], device const float* x_scales [[buffer(6)]],
    constant TiledMatrix& m [[buffer(7)]], constant LinearParams& p [[buffer(8)]],
    constant StreamPlan& plan [[buffer(9)]], threadgroup uchar* shared [[threadgroup(0)]],
    uint band [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  // All tokens of a unit, whose tiles all columns hold.
  MM_WITHIN_REGISTERS((quantized_registers<Codec, S>(kBandBlocks * kColumns, blocks_at_once(kColumns)) +
                       (kColumns * kUnitTiles - S::kTiles) * kTokenRegisters));
  const uint per_simdgroup = (m.units + simdgroups - 1) / simdgroups;
  const uint begin = min(simdgroup * per_simdgroup, m.units), end = min(begin + per_simdgroup, m.units);
  const uint first_block = band * kBandBlocks;
  const uint last = min(kBandBlocks - 1, (m.rows - 1) / kTileRows - first_block);
  threadgroup uchar* const region = shared + simdgroup * plan.region;
  const TileStage tiles = {region + plan.tiles, lane};
  UnitStream<Codec, S, kColumns> stream;
  stream.start(m, p, block_pointers<Codec::kBits>(m, codes, scales, first_block), last, x, region, begin, end, lane);
  // Asked for before it is needed.
  const uint thread_index = simdgroup * 32 + lane, results = p.tokens * kBandRows;
  const float first_x_scale = thread_index < results ? x_scales[thread_index / kBandRows] : 0.0f;

  TileSums sums[kBandBlocks][kColumns];
  MM_UNROLL for (uint block = 0; block < kBandBlocks; ++block)
    MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c) sums[block][c] = no_sums();
  device const float* of_band = minima + ulong(first_block) * scales_of_block(m);
#pragma clang loop unroll(disable)
  for (uint unit = begin; unit < end; ++unit) add_band(sums, stream, m, last, of_band, unit, tiles);

  const uint sum_stride = kBandRows + 4;  // spreads a tile's columns over the banks
  MM_UNROLL for (uint block = 0; block < kBandBlocks; ++block)
    MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c)
      store_sums((threadgroup float*)region + kTileTokens * c * sum_stride + kTileRows * block, sum_stride,
                 sums[block][c], lane);
  threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma clang loop unroll(disable)
  for (uint i = thread_index; i < results; i += 32 * simdgroups) {
    const uint token = i / kBandRows, row = i % kBandRows;
    threadgroup const uchar* at = shared + (token * sum_stride + row) * 4;
    float sum = 0.0f;
#pragma clang loop unroll(disable)
    for (uint s = 0; s < simdgroups; ++s) sum += *(threadgroup const float*)(at + s * plan.region);
    const float x_scale = i == thread_index ? first_x_scale : x_scales[token];
    if (band * kBandRows + row < m.rows)
      put_result(y, p, token, band * kBandRows + row, sum * total_factor<Codec>(m) * x_scale, bias);
  }
}

#define MM_GEMV_FOR(name, Codec, group, general, suffix, columns, resident)                                         \
  template [[host_name("decode_gemv_" #name suffix "_" #columns)]]                                                  \
  [[kernel, max_total_threads_per_threadgroup(256) MM_RESIDENT(resident)]] void                                     \
  decode_gemv<Codec, Scaling<group, general>, columns>(                                                             \
      device const uchar*, device const uchar*, device const float*, device const half*, device uchar*,             \
      device const float*, device const float*, constant TiledMatrix&, constant LinearParams&, constant StreamPlan&, \
      threadgroup uchar*, uint, uint, uint, uint);
// For 8 and 16 tokens, and for 32 where scales are of the most common kinds.
#define MM_GEMV_GENERAL(name, Codec, group, suffix)     \
  MM_GEMV_FOR(name, Codec, group, true, suffix, 1, 16)  \
  MM_GEMV_FOR(name, Codec, group, true, suffix, 2, 16)
#define MM_GEMV(name, Codec)                  \
  MM_GEMV_GENERAL(name, Codec, 32, "")        \
  MM_GEMV_GENERAL(name, Codec, 16, "_by16")
#define MM_GEMV_COMMON(name, Codec, group, suffix)       \
  MM_GEMV_FOR(name, Codec, group, false, suffix, 1, 24)  \
  MM_GEMV_FOR(name, Codec, group, false, suffix, 2, 16)  \
  MM_GEMV_FOR(name, Codec, group, false, suffix, 4, 16)
MM_FOR_EACH_CODEC(MM_GEMV)
MM_GEMV_COMMON(e2m1, codecs::E2m1, 16, "_g16")
MM_GEMV_COMMON(e2m1, codecs::E2m1, 32, "_g32")
MM_GEMV_COMMON(e2m1, codecs::E2m1, 64, "_g64")
MM_GEMV_COMMON(int4, codecs::Integer<4>, 32, "_g32")
MM_GEMV_COMMON(int4, codecs::Integer<4>, 64, "_g64")
MM_GEMV_COMMON(int8, codecs::Integer<8>, 32, "_g32")
MM_GEMV_COMMON(e4m3, codecs::E4m3, 32, "_g32")
