// Quantized matrix times few tokens: y = W x for up to 16 tokens. A threadgroup
// makes 16 rows; its simdgroups share out the inputs and add up in order.
#include "common/linear.h"

template <typename Codec, bool kBy16, int kColumns>
[[kernel, max_total_threads_per_threadgroup(512)]] void decode_gemv(
    device const uint* codes [[buffer(0)]], device const uchar* scales [[buffer(1)]],
    device const float* minima [[buffer(2)]], device const half* x [[buffer(3)]], device uchar* y [[buffer(4)]],
    device const float* bias [[buffer(5)]], device const float* x_scales [[buffer(6)]],
    constant UnitMatrix& m [[buffer(7)]], constant LinearParams& p [[buffer(8)]],
    uint block [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float partial[16 * 32 * 4 * kColumns];
  TileSums sums[kColumns];
  for (uint c = 0; c < uint(kColumns); ++c) sums[c] = no_sums();
  const uint per_simdgroup = (m.units + simdgroups - 1) / simdgroups;
  const uint begin = simdgroup * per_simdgroup;
  const uint end = min(begin + per_simdgroup, m.units);
  const ulong first = ulong(block) * m.units;
  UnitCodes<Codec::kBits> next;
  if (begin < end) next = load_codes<Codec::kBits>(codes, first + begin, lane);
  wait_for_earlier_kernels();
  for (uint unit = begin; unit < end; ++unit) {
    const UnitCodes<Codec::kBits> now = next;
    if (unit + 1 < end) next = load_codes<Codec::kBits>(codes, first + unit + 1, lane);
    TileTokens<half> tokens[kColumns][kUnitTiles];
    for (uint c = 0; c < uint(kColumns); ++c)
      load_unit(tokens[c], x + ulong(8 * c) * p.x_stride + unit * kUnit, p.x_stride, p.tokens - min(p.tokens, 8 * c), kBy16, lane);
    add_unit<Codec, kBy16, kColumns>(sums, now, tokens, m, scales, minima, block, unit, lane);
  }
  let_later_kernels_start();
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

#define MM_GEMV_FOR(name, Codec, by16, suffix, columns)                                                              \
  template [[host_name("decode_gemv_" #name suffix "_" #columns)]]                                                   \
  [[kernel, max_total_threads_per_threadgroup(512)]] void decode_gemv<Codec, by16, columns>(                         \
      device const uint*, device const uchar*, device const float*, device const half*, device uchar*,               \
      device const float*, device const float*, constant UnitMatrix&, constant LinearParams&, uint, uint, uint, uint);
#define MM_GEMV(name, Codec)                    \
  MM_GEMV_FOR(name, Codec, false, "", 1)        \
  MM_GEMV_FOR(name, Codec, false, "", 2)        \
  MM_GEMV_FOR(name, Codec, true, "_by16", 1)    \
  MM_GEMV_FOR(name, Codec, true, "_by16", 2)
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
