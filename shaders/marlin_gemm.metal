// Marlin-style quantized matrix product: weights stay packed until they are in a
// lane's registers. All formats; split over the inputs with an ordered reduction.
#include "common/staged_gemm.h"

MM_STAGED_GEMM(marlin_gemm, 4)

#define MM_MARLIN(name, Codec)                                                     \
  MM_STAGED_INSTANCE(marlin_gemm, "marlin_gemm_" #name, Codec, 32, true)           \
  MM_STAGED_INSTANCE(marlin_gemm, "marlin_gemm_" #name "_by16", Codec, 16, true)
MM_MARLIN(e2m1, codecs::E2m1)
MM_MARLIN(int4, codecs::Integer<4>)
MM_MARLIN(nf4, codecs::Nf4)
MM_MARLIN(iq4nl, codecs::Iq4Nl)
MM_MARLIN(int2, codecs::Integer<2>)
MM_MARLIN(int3, codecs::Integer<3>)
MM_MARLIN(int5, codecs::Integer<5>)
MM_MARLIN(int6, codecs::Integer<6>)
MM_MARLIN(int8, codecs::Integer<8>)
MM_MARLIN(nf2, codecs::Nf2)
MM_MARLIN(nf3, codecs::Nf3)
MM_MARLIN(e4m3, codecs::E4m3)
MM_MARLIN(e5m2, codecs::E5m2)
MM_STAGED_INSTANCE(marlin_gemm, "marlin_gemm_e2m1_g16", codecs::E2m1, 16, false)
MM_STAGED_INSTANCE(marlin_gemm, "marlin_gemm_e2m1_g32", codecs::E2m1, 32, false)
MM_STAGED_INSTANCE(marlin_gemm, "marlin_gemm_e2m1_g64", codecs::E2m1, 64, false)
MM_STAGED_INSTANCE(marlin_gemm, "marlin_gemm_int4_g32", codecs::Integer<4>, 32, false)
MM_STAGED_INSTANCE(marlin_gemm, "marlin_gemm_int4_g64", codecs::Integer<4>, 64, false)
MM_STAGED_INSTANCE(marlin_gemm, "marlin_gemm_int8_g32", codecs::Integer<8>, 32, false)
MM_STAGED_INSTANCE(marlin_gemm, "marlin_gemm_e4m3_g32", codecs::E4m3, 32, false)

// Adds up the parts of a product that was split over its inputs, in order.
// Grid: (rows, tokens).
[[kernel]] void marlin_reduce(device const float* partial [[buffer(0)]], device uchar* y [[buffer(1)]],
                              device const float* bias [[buffer(2)]], device const float* x_scales [[buffer(3)]],
                              constant LinearParams& p [[buffer(4)]], constant uint& rows [[buffer(5)]],
                              constant uint& parts [[buffer(6)]], uint2 at [[thread_position_in_grid]]) {
  wait_for_earlier_kernels();
  float sum = 0.0f;
  for (uint part = 0; part < parts; ++part) sum += partial[(ulong(part) * p.tokens + at.y) * rows + at.x];
  put_result(y, p, at.y, at.x, p.x_scales != 0 ? sum * x_scales[at.y] : sum, bias);
}

// Which row and input each lane's codes of a unit stand for: out[lane][4 tile + pair][2]
// = row + 256 input; and whether this device's matrix unit has its elements in these
// lanes, which a matrix of known numbers tells. One simdgroup.
[[kernel, max_total_threads_per_threadgroup(32)]] void tile_map(device ushort* out [[buffer(0)]],
                                                                constant uint& by_16 [[buffer(1)]],
                                                                device uint* agrees [[buffer(2)]],
                                                                uint lane [[thread_index_in_simdgroup]]) {
  const uint row = tile_row(lane), column = tile_column(lane);
  bool same = true;
#ifndef __METAL_MARLIN_PTX__
  threadgroup half numbers[64];
  numbers[2 * lane] = half(2 * lane);
  numbers[2 * lane + 1] = half(2 * lane + 1);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_matrix<half, 8, 8> m;
  simdgroup_load(m, numbers, 8);
  for (uint e = 0; e < 2; ++e) same = same && uint(m.thread_elements()[e]) == 8 * row + column + e;
#endif
  same = simd_all(same);
  if (lane == 0) *agrees = same ? 1 : 0;
  for (uint tile = 0; tile < kUnitTiles; ++tile) {
    for (uint q = 0; q < 4; ++q) {
      for (uint e = 0; e < 2; ++e) {
        const uint k = tile_input(tile, column + 8 * (q / 2) + e, by_16 != 0);
        out[(lane * 16 + 4 * tile + q) * 2 + e] = ushort((row + 8 * (q & 1)) | k << 8);
      }
    }
  }
}
