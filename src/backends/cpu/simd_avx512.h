// Vectors for x86 with AVX-512 F, BW, DQ, VL and VNNI, and BF16 where compiled for it.
#include <immintrin.h>

#include <cstdint>

#include "backends/cpu/kernels.h"

namespace metal_marlin::cpu {
namespace {

using F32 = __m512;
using I32 = __m512i;
using U8 = __m512i;
constexpr bool kUnsignedDot = true;
#ifdef __AVX512BF16__
constexpr bool kBf16Dot = true;
#else
constexpr bool kBf16Dot = false;
#endif

inline __mmask16 part(int n) {
  return static_cast<__mmask16>((1U << n) - 1);
}

inline F32 f_set(float v) {
  return _mm512_set1_ps(v);
}
inline F32 f_load(const float* p) {
  return _mm512_loadu_ps(p);
}
inline F32 f_load_part(const float* p, int n) {
  return _mm512_maskz_loadu_ps(part(n), p);
}
inline void f_store(float* p, F32 v) {
  _mm512_storeu_ps(p, v);
}
inline void f_store_part(float* p, F32 v, int n) {
  _mm512_mask_storeu_ps(p, part(n), v);
}
inline F32 f_add(F32 a, F32 b) {
  return _mm512_add_ps(a, b);
}
inline F32 f_sub(F32 a, F32 b) {
  return _mm512_sub_ps(a, b);
}
inline F32 f_mul(F32 a, F32 b) {
  return _mm512_mul_ps(a, b);
}
inline F32 f_div(F32 a, F32 b) {
  return _mm512_div_ps(a, b);
}
inline F32 f_fma(F32 a, F32 b, F32 c) {
  return _mm512_fmadd_ps(a, b, c);
}
inline F32 f_max(F32 a, F32 b) {
  return _mm512_max_ps(a, b);
}
inline F32 f_min(F32 a, F32 b) {
  return _mm512_min_ps(a, b);
}
inline F32 f_abs(F32 a) {
  return _mm512_abs_ps(a);
}
inline F32 f_round(F32 a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline F32 f_scale2(F32 a, F32 n) {
  return _mm512_scalef_ps(a, n);
}
inline F32 f_zero_below(F32 v, F32 x, float low) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(low), _CMP_GE_OQ), v);
}
inline float f_first(F32 a) {
  return _mm512_cvtss_f32(a);
}
inline float f_reduce_add(F32 a) {
  return _mm512_reduce_add_ps(a);
}
inline float f_reduce_max(F32 a) {
  return _mm512_reduce_max_ps(a);
}
inline F32 f_load_f16(const std::uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void f_store_f16(std::uint16_t* p, F32 v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline F32 f_load_bf16(const std::uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
// acc[row] += weights[row][0 .. 2] . x[0 .. 2], all bf16.
inline F32 f_dot_bf16(F32 acc, __m512i weights, const std::uint16_t* x) {
#ifdef __AVX512BF16__
  int pair;
  __builtin_memcpy(&pair, x, 4);
  return _mm512_dpbf16_ps(acc, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(pair));
#else
  (void)weights;
  (void)x;
  return acc;
#endif
}
inline void f_store_bf16(std::uint16_t* p, F32 v) {
#ifdef __AVX512BF16__
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(v));
#else
  (void)p;
  (void)v;
#endif
}
inline I32 load_bytes(const std::uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline F32 f_load_u8(const std::uint8_t* p) {
  return _mm512_cvtepi32_ps(load_bytes(p));
}
inline F32 f_load_e8m0(const std::uint8_t* p) {
  const __m512i code = load_bytes(p);
  // Code 0 is 2^-127, subnormal in f32.
  const __m512i shifted = _mm512_slli_epi32(code, 23);
  const __mmask16 zero = _mm512_testn_epi32_mask(code, code);
  return _mm512_castsi512_ps(_mm512_mask_mov_epi32(shifted, zero, _mm512_set1_epi32(0x00400000)));
}
inline void f_store_i8(std::int8_t* p, F32 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(v)));
}
inline F32 f_table(const float* levels, I32 index) {
  return _mm512_permutexvar_ps(index, _mm512_loadu_ps(levels));
}

inline I32 i_zero() {
  return _mm512_setzero_si512();
}
inline I32 i_and(I32 a, int mask) {
  return _mm512_and_si512(a, _mm512_set1_epi32(mask));
}
inline I32 i_or(I32 a, I32 b) {
  return _mm512_or_si512(a, b);
}
inline I32 i_shl(I32 a, int n) {
  return _mm512_slli_epi32(a, static_cast<unsigned>(n));
}
inline I32 i_shr(I32 a, int n) {
  return _mm512_srli_epi32(a, static_cast<unsigned>(n));
}
inline F32 i_to_f(I32 a) {
  return _mm512_cvtepi32_ps(a);
}
inline F32 i_as_f(I32 a) {
  return _mm512_castsi512_ps(a);
}
// acc[row] += weights[4 row .. +4] . x[0 .. 4]
inline I32 i_dot4(I32 acc, U8 weights, const std::int8_t* x) {
  int word;
  __builtin_memcpy(&word, x, 4);
  return _mm512_dpbusd_epi32(acc, weights, _mm512_set1_epi32(word));
}

inline U8 u_load(const std::uint8_t* p) {
  return _mm512_loadu_si512(p);
}
inline U8 u_repeat16(const std::uint8_t* p) {
  return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline U8 u_and(U8 a, int mask) {
  return _mm512_and_si512(a, _mm512_set1_epi8(static_cast<char>(mask)));
}
inline U8 u_or(U8 a, U8 b) {
  return _mm512_or_si512(a, b);
}
// Bits shifted in from the neighbouring byte are masked off by the caller.
inline U8 u_shl(U8 a, int n) {
  return _mm512_slli_epi16(a, static_cast<unsigned>(n));
}
inline U8 u_shr(U8 a, int n) {
  return _mm512_srli_epi16(a, static_cast<unsigned>(n));
}
inline U8 u_table(U8 table, U8 index) {
  return _mm512_shuffle_epi8(table, index);
}
inline U8 u_flip_sign(U8 a) {
  return _mm512_xor_si512(a, _mm512_set1_epi8(static_cast<char>(0x80)));
}
inline I32 u_as_i(U8 a) {
  return a;
}
inline U8 u_spread(U8 kept, int half, I32 pairs) {
  // The permutation heeds four bits of an index.
  const __m512i sources =
      _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(kSpreadSources + 8 * half)));
  const __m512i lanes = _mm512_set4_epi32(0x0C0C0C0C, 0x08080808, 0x04040404, 0);
  return _mm512_shuffle_epi8(kept, _mm512_or_si512(_mm512_permutexvar_epi32(pairs, sources), lanes));
}

}  // namespace
}  // namespace metal_marlin::cpu
