// Quantized matrix times few tokens: y = W x for up to 16 tokens. A threadgroup
// makes 16 rows at a time; its simdgroups share out the inputs and add up in order.
#include "common/unit_stream.h"

constant constexpr uint kGemvSumStride = kTileRows + 4;  // spreads a tile's columns over the banks

// `shared` has `plan.region` bytes for each simdgroup. Grid: threadgroups that take
// the blocks of rows in turn.
template <typename Codec, typename S, int kColumns>
[[kernel, max_total_threads_per_threadgroup(512)]] void decode_gemv(
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
  BlockPointers block = block_pointers<Codec::kBits>(m, codes, scales, group);
  UnitStream<Codec, S, kColumns> stream;
  stream.start(m, p, plan, block, group, groups, x, region, begin, end, lane);
  const uint blocks = (m.rows + kTileRows - 1) / kTileRows;
  uint half_of_sums = 0;
  // Asked for before it is needed.
  const uint thread_index = simdgroup * 32 + lane, results = p.tokens * kTileRows;
  const float first_x_scale = thread_index < results ? x_scales[thread_index / kTileRows] : 0.0f;
#pragma clang loop unroll(disable)
  for (uint index = group; index < blocks; index += groups) {
    TileSums sums[kColumns];
    for (uint c = 0; c < uint(kColumns); ++c) sums[c] = no_sums();
    const ulong first_scale = ulong(index) * scales_of_block(m);
    UnitData<Codec, S> data[2];
    TileTokens<half> tokens[2][kColumns][kUnitTiles];
    uint unit = begin;
    if ((end - begin) % 2 != 0) {
      stream.template take<1>(data, tokens, m, block, unit);
      add_unit<Codec, S, kColumns>(sums, data[0], tokens[0], m, minima + first_scale + scales_before(m, unit), lane);
      ++unit;
    }
    // Two at a time, so that one's multiplications fill the other's waits.
#pragma clang loop unroll(disable)
    for (; unit < end; unit += 2) {
      stream.template take<2>(data, tokens, m, block, unit);
      for (uint i = 0; i < 2; ++i)
        add_unit<Codec, S, kColumns>(sums, data[i], tokens[i], m, minima + first_scale + scales_before(m, unit + i), lane);
    }
    // Two places for sums, if there are more blocks: while they are read, the next
    // ones are stored.
    for (uint c = 0; c < uint(kColumns); ++c)
      store_sums((threadgroup float*)(region + half_of_sums) + 8 * c * kGemvSumStride, kGemvSumStride, sums[c], lane);
    threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma clang loop unroll(disable)
    for (uint i = thread_index; i < results; i += 32 * simdgroups) {
      const uint token = i / kTileRows, row = i % kTileRows;
      threadgroup const uchar* at = shared + half_of_sums + (token * kGemvSumStride + row) * 4;
      float sum = 0.0f;
#pragma clang loop unroll(disable)
      for (uint s = 0; s < simdgroups; ++s) sum += *(threadgroup const float*)(at + s * plan.region);
      const float x_scale = i == thread_index ? first_x_scale : x_scales[token];
      if (index * kTileRows + row < m.rows)
        put_result(y, p, token, index * kTileRows + row, sum * total_factor<Codec>(m) * x_scale, bias);
    }
    half_of_sums = kColumns * 8 * kGemvSumStride * 4 - half_of_sums;
    block = block_pointers<Codec::kBits>(m, block.codes, block.scales, groups);
  }
}

#define MM_GEMV_FOR(name, Codec, group, general, suffix, columns)                                          \
  template [[host_name("decode_gemv_" #name suffix "_" #columns)]]                                                   \
  [[kernel, max_total_threads_per_threadgroup(512)]] void                                                          \
  decode_gemv<Codec, Scaling<group, general>, columns>(                                                            \
      device const uchar*, device const uchar*, device const float*, device const half*, device uchar*,            \
      device const float*, device const float*, constant UnitMatrix&, constant LinearParams&, constant StreamPlan&, \
      threadgroup uchar*, uint, uint, uint, uint, uint);
#define MM_GEMV_SCALING(name, Codec, group, general, suffix) \
  MM_GEMV_FOR(name, Codec, group, general, suffix, 1)        \
  MM_GEMV_FOR(name, Codec, group, general, suffix, 2)
#define MM_GEMV(name, Codec)                      \
  MM_GEMV_SCALING(name, Codec, 32, true, "")      \
  MM_GEMV_SCALING(name, Codec, 16, true, "_by16")
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
MM_GEMV_SCALING(e2m1, codecs::E2m1, 16, false, "_g16")
MM_GEMV_SCALING(e2m1, codecs::E2m1, 32, false, "_g32")
MM_GEMV_SCALING(e2m1, codecs::E2m1, 64, false, "_g64")
MM_GEMV_SCALING(int4, codecs::Integer<4>, 32, false, "_g32")
MM_GEMV_SCALING(int4, codecs::Integer<4>, 64, false, "_g64")
MM_GEMV_SCALING(int8, codecs::Integer<8>, 32, false, "_g32")
MM_GEMV_SCALING(e4m3, codecs::E4m3, 32, false, "_g32")
