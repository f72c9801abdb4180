// Vectors for x86 with AVX2, FMA and F16C: pairs of 256-bit registers.
#include <immintrin.h>

#include <cstdint>

#include "backends/cpu/kernels.h"

namespace metal_marlin::cpu {
namespace {

struct F32 {
  __m256 a, b;
};
struct I32 {
  __m256i a, b;
};
struct U8 {
  __m256i a, b;
};
constexpr bool kUnsignedDot = false;
constexpr bool kBf16Dot = false;
inline F32 f_dot_bf16(F32 acc, U8, const std::uint16_t*) {
  return acc;
}
inline void f_store_bf16(std::uint16_t*, F32) {}

inline F32 f_set(float v) {
  return {_mm256_set1_ps(v), _mm256_set1_ps(v)};
}
inline F32 f_load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
inline __m256i part(int n) {
  alignas(32) static constexpr std::int32_t kMask[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMask + 8 - (n < 0 ? 0 : n > 8 ? 8 : n)));
}
inline F32 f_load_part(const float* p, int n) {
  return {_mm256_maskload_ps(p, part(n)), _mm256_maskload_ps(p + 8, part(n - 8))};
}
inline void f_store(float* p, F32 v) {
  _mm256_storeu_ps(p, v.a);
  _mm256_storeu_ps(p + 8, v.b);
}
inline void f_store_part(float* p, F32 v, int n) {
  _mm256_maskstore_ps(p, part(n), v.a);
  if (n > 8) _mm256_maskstore_ps(p + 8, part(n - 8), v.b);
}
inline F32 f_add(F32 x, F32 y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
inline F32 f_sub(F32 x, F32 y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
inline F32 f_mul(F32 x, F32 y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
inline F32 f_div(F32 x, F32 y) {
  return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
inline F32 f_fma(F32 x, F32 y, F32 z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline F32 f_max(F32 x, F32 y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
inline F32 f_min(F32 x, F32 y) {
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
inline F32 f_abs(F32 x) {
  const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
  return {_mm256_and_ps(x.a, mask), _mm256_and_ps(x.b, mask)};
}
inline F32 f_round(F32 x) {
  return {_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline __m256 scale2(__m256 a, __m256 n) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(a, _mm256_castsi256_ps(exponent));
}
inline F32 f_scale2(F32 x, F32 n) {
  return {scale2(x.a, n.a), scale2(x.b, n.b)};
}
inline F32 f_zero_below(F32 v, F32 x, float low) {
  const __m256 limit = _mm256_set1_ps(low);
  return {_mm256_and_ps(v.a, _mm256_cmp_ps(x.a, limit, _CMP_GE_OQ)),
          _mm256_and_ps(v.b, _mm256_cmp_ps(x.b, limit, _CMP_GE_OQ))};
}
inline float f_first(F32 x) {
  return _mm256_cvtss_f32(x.a);
}
inline float f_reduce_add(F32 x) {
  const __m256 s = _mm256_add_ps(x.a, x.b);
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
inline float f_reduce_max(F32 x) {
  const __m256 s = _mm256_max_ps(x.a, x.b);
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
inline F32 f_load_f16(const std::uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline void f_store_f16(std::uint16_t* p, F32 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8),
                   _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline __m256 load_bf16(const std::uint16_t* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline F32 f_load_bf16(const std::uint16_t* p) {
  return {load_bf16(p), load_bf16(p + 8)};
}
inline __m256i load_bytes(const std::uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
inline F32 f_load_u8(const std::uint8_t* p) {
  return {_mm256_cvtepi32_ps(load_bytes(p)), _mm256_cvtepi32_ps(load_bytes(p + 8))};
}
inline __m256 load_e8m0(const std::uint8_t* p) {
  const __m256i code = load_bytes(p);
  const __m256i zero = _mm256_cmpeq_epi32(code, _mm256_setzero_si256());
  // Code 0 is 2^-127, subnormal in f32.
  return _mm256_castsi256_ps(_mm256_blendv_epi8(_mm256_slli_epi32(code, 23), _mm256_set1_epi32(0x00400000), zero));
}
inline F32 f_load_e8m0(const std::uint8_t* p) {
  return {load_e8m0(p), load_e8m0(p + 8)};
}
inline void f_store_i8(std::int8_t* p, F32 v) {
  const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b));
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)));
}
inline __m256 table8(const float* levels, __m256i index) {
  const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(levels), index);
  const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(levels + 8), index);
  return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));  // bit 3 to the sign
}
inline F32 f_table(const float* levels, I32 index) {
  return {table8(levels, index.a), table8(levels, index.b)};
}

inline I32 i_zero() {
  return {_mm256_setzero_si256(), _mm256_setzero_si256()};
}
inline I32 i_and(I32 x, int mask) {
  const __m256i m = _mm256_set1_epi32(mask);
  return {_mm256_and_si256(x.a, m), _mm256_and_si256(x.b, m)};
}
inline I32 i_or(I32 x, I32 y) {
  return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
}
inline I32 i_shl(I32 x, int n) {
  return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)};
}
inline I32 i_shr(I32 x, int n) {
  return {_mm256_srli_epi32(x.a, n), _mm256_srli_epi32(x.b, n)};
}
inline F32 i_to_f(I32 x) {
  return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}
inline F32 i_as_f(I32 x) {
  return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)};
}
// Signs move from the weights to x: |w| <= 128 and |x| <= 127 keep pairs in 16 bits.
inline __m256i dot4(__m256i acc, __m256i weights, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline I32 i_dot4(I32 acc, U8 weights, const std::int8_t* x) {
  int word;
  __builtin_memcpy(&word, x, 4);
  const __m256i spread = _mm256_set1_epi32(word);
  return {dot4(acc.a, weights.a, spread), dot4(acc.b, weights.b, spread)};
}

inline U8 u_load(const std::uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
inline U8 u_repeat16(const std::uint8_t* p) {
  const __m256i v = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return {v, v};
}
inline U8 u_and(U8 x, int mask) {
  const __m256i m = _mm256_set1_epi8(static_cast<char>(mask));
  return {_mm256_and_si256(x.a, m), _mm256_and_si256(x.b, m)};
}
inline U8 u_or(U8 x, U8 y) {
  return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
}
// Bits shifted in from the neighbouring byte are masked off by the caller.
inline U8 u_shl(U8 x, int n) {
  return {_mm256_slli_epi16(x.a, n), _mm256_slli_epi16(x.b, n)};
}
inline U8 u_shr(U8 x, int n) {
  return {_mm256_srli_epi16(x.a, n), _mm256_srli_epi16(x.b, n)};
}
inline U8 u_table(U8 table, U8 index) {
  return {_mm256_shuffle_epi8(table.a, index.a), _mm256_shuffle_epi8(table.b, index.b)};
}
inline U8 u_flip_sign(U8 x) {
  const __m256i sign = _mm256_set1_epi8(static_cast<char>(0x80));
  return {_mm256_xor_si256(x.a, sign), _mm256_xor_si256(x.b, sign)};
}
inline I32 u_as_i(U8 x) {
  return {x.a, x.b};
}
inline U8 u_spread(U8 kept, int half, I32 pairs) {
  // The permutation heeds three bits of an index.
  const __m256i sources = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kSpreadSources + 8 * half));
  const __m256i lanes = _mm256_setr_epi32(0, 0x04040404, 0x08080808, 0x0C0C0C0C, 0, 0x04040404, 0x08080808, 0x0C0C0C0C);
  const auto index = [&](__m256i p) { return _mm256_or_si256(_mm256_permutevar8x32_epi32(sources, p), lanes); };
  return {_mm256_shuffle_epi8(kept.a, index(pairs.a)), _mm256_shuffle_epi8(kept.b, index(pairs.b))};
}

}  // namespace
}  // namespace metal_marlin::cpu
