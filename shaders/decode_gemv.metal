// Quantized matrix times few tokens: y = W x for up to 16 tokens. A threadgroup
// makes 16 rows; its simdgroups share out the inputs and add up in order.
#include "common/linear.h"

template <typename Codec, typename S, int kColumns>
[[kernel, max_total_threads_per_threadgroup(256)]] void decode_gemv(
    device const uint* codes [[buffer(0)]], device const uchar* scales [[buffer(1)]],
    device const float* minima [[buffer(2)]], device const half* x [[buffer(3)]], device uchar* y [[buffer(4)]],
    device const float* bias [[buffer(5)]], device const float* x_scales [[buffer(6)]],
    constant UnitMatrix& m [[buffer(7)]], constant LinearParams& p [[buffer(8)]],
    uint block [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float partial[8 * 32 * 4 * kColumns];
  TileSums sums[kColumns];
  for (uint c = 0; c < uint(kColumns); ++c) sums[c] = no_sums();
  const uint last = m.units - 1;
  constexpr uint ahead = kColumns == 1 ? 4 : 2;  // units asked for before the first is used
  UnitData<Codec, S> next[ahead];
  for (uint i = 0; i < ahead; ++i)
    next[i] = load_unit_data<Codec, S>(m, codes, scales, block, min(simdgroup + i * simdgroups, last), lane);
  let_later_kernels_start();
  wait_for_earlier_kernels();
#pragma clang loop unroll(disable)
  for (uint chunk = simdgroup; chunk < m.units; chunk += ahead * simdgroups) {
    TileTokens<half> tokens[ahead][kColumns][kUnitTiles];
    UnitData<Codec, S> data[ahead];
    for (uint i = 0; i < ahead; ++i) {
      const uint unit = min(chunk + i * simdgroups, last);
      for (uint c = 0; c < uint(kColumns); ++c)
        load_unit(tokens[i][c], x + 8 * c * p.x_stride + unit * kUnit, p.x_stride, p.tokens - min(p.tokens, 8 * c),
                  S::kBy16, lane);
      data[i] = next[i];
    }
    if (chunk + ahead * simdgroups < m.units) {
      for (uint i = 0; i < ahead; ++i) {
        const uint unit = min(chunk + (ahead + i) * simdgroups, last);
        next[i] = load_unit_data<Codec, S>(m, codes, scales, block, unit, lane);
      }
    }
    for (uint i = 0; i < ahead; ++i) {
      const uint unit = chunk + i * simdgroups;
      if (unit < m.units) add_unit<Codec, S, kColumns>(sums, data[i], tokens[i], m, minima, block, unit, lane);
    }
  }
  for (uint c = 0; c < uint(kColumns); ++c) {
    for (uint i = 0; i < 4; ++i) partial[((simdgroup * kColumns + c) * 4 + i) * 32 + lane] = sums[c].e[i];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (simdgroup >= uint(kColumns)) return;
  TileSums total = no_sums();
  for (uint s = 0; s < simdgroups; ++s) {
    for (uint i = 0; i < 4; ++i) total.e[i] += partial[((s * kColumns + simdgroup) * 4 + i) * 32 + lane];
  }
  put_sums(y, p, m.rows, block, 8 * simdgroup, total, bias, x_scales, lane);
}

#define MM_GEMV_FOR(name, Codec, group, general, suffix, columns)                                                    \
  template [[host_name("decode_gemv_" #name suffix "_" #columns)]]                                                   \
  [[kernel, max_total_threads_per_threadgroup(256)]] void decode_gemv<Codec, Scaling<group, general>, columns>(      \
      device const uint*, device const uchar*, device const float*, device const half*, device uchar*,               \
      device const float*, device const float*, constant UnitMatrix&, constant LinearParams&, uint, uint, uint, uint);
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
