// Marlin-style quantized matrix product: weights stay packed until they are in a
// lane's registers. All formats; split over the inputs with an ordered reduction.
#include "common/staged_gemm.h"
#include "common/unroll.h"

MM_STAGED_GEMM(marlin_gemm, 4)

#define MM_MARLIN(name, Codec)                                                     \
  MM_STAGED_INSTANCE(marlin_gemm, "marlin_gemm_" #name, Codec, 32, true)           \
  MM_STAGED_INSTANCE(marlin_gemm, "marlin_gemm_" #name "_by16", Codec, 16, true)
MM_FOR_EACH_CODEC(MM_MARLIN)
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

// Which row and input each lane's codes of a unit stand for: places[by_16][lane][4 tile + pair][2]
// = row + 256 input; and whether this device's matrix unit has its elements in these lanes, which a
// matrix of known numbers tells, and multiplies subnormal halves. One simdgroup.
[[kernel, max_total_threads_per_threadgroup(32)]] void tile_map(device ushort* places [[buffer(0)]],
                                                                device uint* answers [[buffer(1)]],
                                                                uint lane [[thread_index_in_simdgroup]]) {
  const uint row = tile_row(lane), column = tile_column(lane);
  bool same = true, multiplies = true;
#ifndef __METAL_MARLIN_PTX__
  threadgroup half numbers[64], subnormals[64], factors[64];
  threadgroup float products[64];
  for (uint i = 2 * lane; i < 2 * lane + 2; ++i) {
    numbers[i] = half(i);
    subnormals[i] = as_type<half>(ushort(16 * i + 1));
    factors[i] = i % 9 == 0 ? 1024.0h : 0.0h;  // a diagonal
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_matrix<half, 8, 8> m;
  simdgroup_load(m, numbers, 8);
  for (uint e = 0; e < 2; ++e) same = same && uint(m.thread_elements()[e]) == 8 * row + column + e;
  simdgroup_matrix<half, 8, 8> small, large;
  simdgroup_matrix<float, 8, 8> product = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  simdgroup_load(small, subnormals, 8);
  simdgroup_load(large, factors, 8);
  simdgroup_multiply_accumulate(product, small, large, product);
  simdgroup_store(product, products, 8);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (uint i = 2 * lane; i < 2 * lane + 2; ++i)
    multiplies = multiplies && products[i] == float(16 * i + 1) / 16384.0f;
#endif
  same = simd_all(same);
  multiplies = simd_all(multiplies);
  if (lane == 0) {
    answers[0] = same ? 1 : 0;
    answers[1] = multiplies ? 1 : 0;
  }
  for (uint by_16 = 0; by_16 < 2; ++by_16) {
    for (uint i = 0; i < 8 * kUnitTiles; ++i) {
      const uint q = i / 2 % 4, k = tile_input(i / 8, column + 8 * (q / 2) + i % 2, by_16 != 0);
      places[(by_16 * 32 + lane) * (8 * kUnitTiles) + i] = ushort((row + 8 * (q & 1)) | k << 8);
    }
  }
}
