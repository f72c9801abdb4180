// The kernels' one text. A kernels_*.cpp first includes a simd_*.h that defines
// the vector types and operations, then this. Nothing here may call an inline
// function from elsewhere: the linker could pick this file's copy, compiled for
// a newer processor, for everybody.
//
// Vector types: F32 and I32 of 16 lanes, U8 of 64. kUnsignedDot says that dot4
// takes weights as unsigned bytes; levels of a table are then stored plus 128.
// u_spread(kept, half, pairs) puts, in each four bytes, bytes 0 and 1 of `kept` (half 1: 2 and 3) to the
// places that the number 0 to 5 in the low four bits of that lane of `pairs` means, and zeros elsewhere
// (PanelKind::kSparse4).
// kBf16Dot says that there are f_dot_bf16 and f_store_bf16.
// MM_UNROLL(n), where a simd_*.h has it, comes before loops of n rounds that are to be none.

#include "backends/cpu/kernels.h"

#ifndef MM_UNROLL
#define MM_PRAGMA(text) _Pragma(#text)
#define MM_UNROLL(n) MM_PRAGMA(GCC unroll n)
#endif

namespace metal_marlin::cpu {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

inline std::int64_t lesser(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}
inline std::int64_t greater(std::int64_t a, std::int64_t b) {
  return a > b ? a : b;
}

// exp by 2^n * p(r), |r| <= ln(2)/2, relative error below 2e-7.
inline F32 f_exp(F32 x) {
  x = f_min(f_max(x, f_set(-87.0F)), f_set(88.0F));
  const F32 n = f_round(f_mul(x, f_set(1.44269504088896F)));
  F32 r = f_fma(n, f_set(-0.693359375F), x);
  r = f_fma(n, f_set(2.12194440e-4F), r);
  F32 p = f_set(1.9875691500e-4F);
  p = f_fma(p, r, f_set(1.3981999507e-3F));
  p = f_fma(p, r, f_set(8.3334519073e-3F));
  p = f_fma(p, r, f_set(4.1665795894e-2F));
  p = f_fma(p, r, f_set(1.6666665459e-1F));
  p = f_fma(p, r, f_set(5.0000001201e-1F));
  p = f_add(f_fma(p, f_mul(r, r), r), f_set(1.0F));
  return f_scale2(p, n);
}

// exp, but exactly zero far below (and at minus infinity).
inline F32 f_exp_or_zero(F32 x) {
  return f_zero_below(f_exp(x), x, -87.0F);
}

inline F32 f_silu(F32 x) {
  return f_div(x, f_add(f_set(1.0F), f_exp(f_sub(f_set(0.0F), x))));
}

// tanh(x), to 2e-7 of it: a polynomial near 0, where 1 - 2 / (exp(2x) + 1) would lose digits.
inline F32 f_tanh(F32 x) {
  constexpr float kNear = 0.625F;
  const F32 far = f_sub(f_set(1.0F), f_div(f_set(2.0F), f_add(f_exp(f_add(x, x)), f_set(1.0F))));
  const F32 small =
      f_min(f_max(x, f_set(-1.0F)), f_set(1.0F));  // where the polynomial counts; elsewhere it stays finite
  const F32 square = f_mul(small, small);
  F32 p = f_set(-5.70498872745e-3F);
  p = f_fma(p, square, f_set(2.06390887954e-2F));
  p = f_fma(p, square, f_set(-5.37397155531e-2F));
  p = f_fma(p, square, f_set(1.33314422036e-1F));
  p = f_fma(p, square, f_set(-3.33332819422e-1F));
  const F32 near = f_fma(f_mul(p, square), small, x);  // NaN where x is
  const F32 size = f_abs(x);
  return f_add(f_sub(near, f_zero_below(near, size, kNear)), f_zero_below(far, size, kNear));
}

// The error function to 2e-7: x P(x^2) up to 1, beyond 1 - exp(-x^2) Q(1 / (1 + 0.47047 x)), as the shaders have it
// (shaders/common/epilogue.h).
inline F32 f_erf(F32 x) {
  const F32 size = f_min(f_abs(x), f_set(9.0F));
  const F32 square = f_mul(size, size);
  F32 p = f_set(-9.72840917e-06F);
  p = f_fma(p, square, f_set(1.12881753e-04F));
  p = f_fma(p, square, f_set(-8.48726777e-04F));
  p = f_fma(p, square, f_set(5.22126164e-03F));
  p = f_fma(p, square, f_set(-2.68655177e-02F));
  p = f_fma(p, square, f_set(1.12837844e-01F));
  p = f_fma(p, square, f_set(-3.76126379e-01F));
  p = f_fma(p, square, f_set(1.12837923F));
  const F32 near = f_mul(size, p);
  const F32 u = f_div(f_set(1.0F), f_fma(f_set(0.47047F), size, f_set(1.0F)));
  F32 q = f_set(6.31385073e-02F);
  q = f_fma(q, u, f_set(-1.70215204e-01F));
  q = f_fma(q, u, f_set(2.50529218e-02F));
  q = f_fma(q, u, f_set(1.92574903e-01F));
  q = f_fma(q, u, f_set(9.42102224e-02F));
  q = f_fma(q, u, f_set(2.72297055e-01F));
  q = f_fma(q, u, f_set(2.56447852e-01F));
  q = f_fma(q, u, f_set(2.66650379e-01F));
  q = f_fma(q, u, f_set(-7.01115569e-05F));
  const F32 far = f_sub(f_set(1.0F), f_mul(f_exp(f_sub(f_set(0.0F), square)), q));
  // f_zero_below(v, s, low) is v where s is at least low: sizes above 1 take the second form, signs are x's.
  constexpr float kNear = 1.0F;
  const F32 of_size = f_add(f_sub(near, f_zero_below(near, size, kNear)), f_zero_below(far, size, kNear));
  const F32 positive = f_zero_below(of_size, x, 0.0F);
  return f_sub(f_add(positive, positive), of_size);
}

inline F32 f_activate(Gate activation, F32 x) {
  switch (activation) {
    case Gate::kSilu: return f_silu(x);
    case Gate::kGeluTanh: {  // x sigmoid(2u), since (1 + tanh u) / 2 = sigmoid(2u)
      const F32 cubic = f_fma(f_mul(f_mul(x, x), x), f_set(0.044715F), x);
      return f_div(x, f_add(f_set(1.0F), f_exp(f_mul(cubic, f_set(-1.5957691216F)))));
    }
    case Gate::kGelu:
    case Gate::kClamped: break;  // which has no part of the gate's own
  }
  return f_mul(f_mul(f_set(0.5F), x), f_add(f_set(1.0F), f_erf(f_mul(x, f_set(0.70710678F)))));
}

// A limit comes first: of it and what is no number, minimum and maximum are the second.
inline F32 f_gated(const GateForm& form, F32 gate, F32 up) {
  if (form.gate != Gate::kClamped) return f_mul(up, f_activate(form.gate, gate));
  const F32 g = f_min(f_set(form.limit), gate);
  const F32 u = f_max(f_set(-form.limit), f_min(f_set(form.limit), up));
  const F32 opened = f_div(g, f_add(f_set(1.0F), f_exp(f_mul(g, f_set(-form.alpha)))));
  return f_mul(f_add(u, f_set(1.0F)), opened);
}

// ---- weights ---------------------------------------------------------------

// Chunk `c` of a plane of kWidth bits, moved to bit kPlace of each byte.
template <int kWidth, int kPlace>
inline U8 plane_chunk(const std::uint8_t* plane, int c) {
  constexpr int kPer = 8 / kWidth;
  constexpr int kMask = ((1 << kWidth) - 1) << kPlace;
  const U8 bytes = u_load(plane + 64 * (c / kPer));
  const int shift = (c % kPer) * kWidth;
  return u_and(shift >= kPlace ? u_shr(bytes, shift - kPlace) : u_shl(bytes, kPlace - shift), kMask);
}

// Codes of chunk `c`, one a byte.
template <PanelKind kKind>
inline U8 unpack_chunk(const std::uint8_t* block, int c) {
  if constexpr (kKind == PanelKind::kCodes2) return plane_chunk<2, 0>(block, c);
  if constexpr (kKind == PanelKind::kCodes3)
    return u_or(plane_chunk<2, 0>(block, c), plane_chunk<1, 2>(block + 128, c));
  if constexpr (kKind == PanelKind::kCodes4) return plane_chunk<4, 0>(block, c);
  if constexpr (kKind == PanelKind::kCodes5)
    return u_or(plane_chunk<4, 0>(block, c), plane_chunk<1, 4>(block + 256, c));
  if constexpr (kKind == PanelKind::kCodes6)
    return u_or(plane_chunk<4, 0>(block, c), plane_chunk<2, 4>(block + 256, c));
  if constexpr (kKind == PanelKind::kSparse4) {
    const I32 positions = u_as_i(u_load(block + 128));
    return u_spread(plane_chunk<4, 0>(block, c / 2), c % 2, i_shr(positions, 4 * c));
  }
  return u_load(block + 64 * c);
}

inline F32 load_scale(const PanelView& m, const void* values, std::int64_t at) {
  switch (m.scale_type) {
    case PanelScale::kF16: return f_load_f16(static_cast<const std::uint16_t*>(values) + at);
    case PanelScale::kBf16: return f_load_bf16(static_cast<const std::uint16_t*>(values) + at);
    case PanelScale::kE8m0: return f_load_e8m0(static_cast<const std::uint8_t*>(values) + at);
    default: return f_load(static_cast<const float*>(values) + at);
  }
}

// Per group and row: a weight is scale * code + base, codes as the integer dot
// product (integer_dot) or the f32 decoder sees them. Layout [groups][2][16].
inline void expand_scales(const PanelView& m, std::int64_t panel, bool integer_dot, float* scratch) {
  if (m.scale_type == PanelScale::kNone) return;
  float offset = 0;
  if (integer_dot) offset = m.table ? (kUnsignedDot ? 128.0F : 0.0F) : m.offset;
  if (integer_dot && !kUnsignedDot && m.kind == PanelKind::kCodes8) offset -= 128.0F;  // made signed on the way
  const F32 factor = f_set(m.multiplier * (integer_dot ? m.level_scale : 1.0F));
  const F32 minus_offset = f_set(-offset);
  for (std::int64_t g = 0; g < m.groups; ++g) {
    const std::int64_t at = (panel * m.groups + g) * kPanelRows;
    const F32 scale = f_mul(load_scale(m, m.scales, at), factor);
    F32 base = f_mul(scale, minus_offset);
    if (m.minima != nullptr) base = f_add(base, load_scale(m, m.minima, at));
    if (m.zeros != nullptr) base = f_sub(base, f_mul(scale, f_load_u8(m.zeros + at)));
    f_store(scratch + g * 2 * kPanelRows, scale);
    f_store(scratch + g * 2 * kPanelRows + kPanelRows, base);
  }
}

inline std::int64_t group_of(const PanelView& m, std::int64_t block) {
  return m.groups == 1 ? 0 : block * kBlock / m.group;
}

// Accumulators that the compiler keeps in registers: nothing can point at them.
// A single token may have four of them, so that additions need not wait for each other.
template <int kTokens, int kChains = 1>
struct Sums {
  static_assert(kChains == 1 || (kChains == 4 && kTokens == 1));
  F32 v[kTokens * kChains];
  Sums() {
    MM_UNROLL(8)
    for (int i = 0; i < kTokens * kChains; ++i) v[i] = f_set(0.0F);
  }
  F32& at(int token, int chain) { return v[token * kChains + chain % kChains]; }
  void store(F32* out) const {
    for (int t = 0; t < kTokens; ++t) {
      if constexpr (kChains == 4) {
        out[t] = f_add(f_add(v[0], v[1]), f_add(v[2], v[3]));
      } else {
        out[t] = v[t];
      }
    }
  }
};

// ---- 8-bit activations -----------------------------------------------------

template <PanelKind kKind, bool kTable, bool kHalves, int kTokens>
inline void q8_panel(const PanelView& m, const std::uint8_t* codes, const float* scales, const U8 table,
                     const Q8Block* x, std::int64_t stride, F32* acc) {
  constexpr std::int64_t kBlockBytes = 64 * code_bits(kKind);
  Sums<kTokens> sum;
  for (std::int64_t b = 0; b < m.blocks; ++b, codes += kBlockBytes) {
    U8 w[kChunks];
    MM_UNROLL(8)
    for (int c = 0; c < kChunks; ++c) {
      w[c] = unpack_chunk<kKind>(codes, c);
      if constexpr (kTable) w[c] = u_table(table, w[c]);
      if constexpr (kKind == PanelKind::kCodes8 && !kUnsignedDot) w[c] = u_flip_sign(w[c]);
    }
    const float* const low = scales + (kHalves ? 2 * b : group_of(m, b)) * 2 * kPanelRows;
    const bool last_half = kHalves && 2 * b + 1 >= m.groups;
    const float* const high = last_half ? low : low + 2 * kPanelRows;
    MM_UNROLL(8)
    for (int t = 0; t < kTokens; ++t) {
      const Q8Block& xb = x[t * stride + b];
      if constexpr (kHalves) {
        I32 d0 = i_zero();
        I32 d1 = i_zero();
        MM_UNROLL(4)
        for (int c = 0; c < 4; ++c) d0 = i_dot4(d0, w[c], xb.q + 4 * c);
        MM_UNROLL(4)
        for (int c = 4; c < 8; ++c) d1 = i_dot4(d1, w[c], xb.q + 4 * c);
        const F32 xs = f_set(xb.scale);
        sum.at(t, 0) = f_fma(f_mul(f_load(low), xs), i_to_f(d0), sum.at(t, 0));
        sum.at(t, 0) = f_fma(f_mul(f_load(high), xs), i_to_f(d1), sum.at(t, 0));
        sum.at(t, 0) = f_fma(f_load(low + kPanelRows), f_set(xb.low_sum), sum.at(t, 0));
        sum.at(t, 0) = f_fma(f_load(high + kPanelRows), f_set(xb.high_sum), sum.at(t, 0));
      } else {
        I32 d = i_zero();
        MM_UNROLL(8)
        for (int c = 0; c < kChunks; ++c) d = i_dot4(d, w[c], xb.q + 4 * c);
        sum.at(t, 0) = f_fma(f_mul(f_load(low), f_set(xb.scale)), i_to_f(d), sum.at(t, 0));
        sum.at(t, 0) = f_fma(f_load(low + kPanelRows), f_set(xb.sum), sum.at(t, 0));
      }
    }
  }
  sum.store(acc);
}

inline U8 integer_table(const PanelView& m) {
  std::uint8_t bytes[16];
  for (int i = 0; i < 16; ++i)
    bytes[i] = static_cast<std::uint8_t>(static_cast<int>(m.levels[i]) + (kUnsignedDot ? 128 : 0));
  return u_repeat16(bytes);
}

template <int kTokens, PanelKind kKind, bool kTable>
inline void q8_groups(const PanelView& m, const std::uint8_t* codes, const float* scales, U8 table, const Q8Block* x,
                      std::int64_t stride, F32* acc) {
  if (m.group == 16 && m.groups > 1) {
    q8_panel<kKind, kTable, true, kTokens>(m, codes, scales, table, x, stride, acc);
  } else {
    q8_panel<kKind, kTable, false, kTokens>(m, codes, scales, table, x, stride, acc);
  }
}

template <int kTokens>
void q8_dispatch(const PanelView& m, std::int64_t panel, const float* scales, const Q8Block* x, std::int64_t stride,
                 F32* acc) {
  const std::uint8_t* const codes = m.codes + static_cast<std::size_t>(panel) * m.panel_bytes;
  const U8 table = integer_table(m);
  switch (m.kind) {
    case PanelKind::kCodes2:
      return q8_groups<kTokens, PanelKind::kCodes2, false>(m, codes, scales, table, x, stride, acc);
    case PanelKind::kCodes3:
      return q8_groups<kTokens, PanelKind::kCodes3, false>(m, codes, scales, table, x, stride, acc);
    case PanelKind::kCodes4:
      if (m.table) return q8_groups<kTokens, PanelKind::kCodes4, true>(m, codes, scales, table, x, stride, acc);
      return q8_groups<kTokens, PanelKind::kCodes4, false>(m, codes, scales, table, x, stride, acc);
    case PanelKind::kSparse4:
      return q8_groups<kTokens, PanelKind::kSparse4, true>(m, codes, scales, table, x, stride, acc);
    case PanelKind::kCodes5:
      return q8_groups<kTokens, PanelKind::kCodes5, false>(m, codes, scales, table, x, stride, acc);
    case PanelKind::kCodes6:
      return q8_groups<kTokens, PanelKind::kCodes6, false>(m, codes, scales, table, x, stride, acc);
    default: return q8_groups<kTokens, PanelKind::kCodes8, false>(m, codes, scales, table, x, stride, acc);
  }
}

// ---- f32 activations -------------------------------------------------------

// Elements of 4 inputs of a chunk, or one input of a dense matrix.
template <PanelKind kKind, bool kTable>
inline F32 code_element(const PanelView& m, U8 codes, int j) {
  const I32 code = i_and(i_shr(u_as_i(codes), 8 * j), 255);
  if constexpr (kKind == PanelKind::kE4m3 || kKind == PanelKind::kE5m2) {
    constexpr int kShift = kKind == PanelKind::kE4m3 ? 20 : 21;
    const F32 unscaled = i_as_f(i_or(i_shl(i_and(code, 0x7F), kShift), i_shl(i_and(code, 0x80), 24)));
    return f_mul(unscaled, f_set(kKind == PanelKind::kE4m3 ? 0x1p120F : 0x1p112F));
  } else if constexpr (kTable) {
    return f_mul(f_table(m.levels, code), f_set(m.level_scale));
  } else {
    return f_sub(i_to_f(code), f_set(m.offset));
  }
}

// Calls visit(input, weights of the panel's 16 rows) for each input in turn,
// j = input % 4 being known to the compiler. scales are expanded.
template <PanelKind kKind, bool kTable, typename Visit>
inline void visit_codes(const PanelView& m, const std::uint8_t* codes, const float* scales, const Visit& visit) {
  constexpr std::int64_t kBlockBytes = 64 * code_bits(kKind);
  const bool halves = m.group == 16 && m.groups > 1;
  for (std::int64_t b = 0; b < m.blocks; ++b, codes += kBlockBytes) {
    const float* group = scales + (halves ? 2 * b : group_of(m, b)) * 2 * kPanelRows;
    for (int c = 0; c < kChunks; ++c) {
      if (halves && c == 4 && 2 * b + 1 < m.groups) group += 2 * kPanelRows;
      const F32 scale = f_load(group);
      const F32 base = f_load(group + kPanelRows);
      const U8 chunk = unpack_chunk<kKind>(codes, c);
      MM_UNROLL(4)
      for (int j = 0; j < 4; ++j) {
        visit(b * kBlock + 4 * c + j, j, f_fma(code_element<kKind, kTable>(m, chunk, j), scale, base));
      }
    }
  }
}

template <PanelKind kKind>
inline F32 dense_element(const std::uint8_t* panel, std::int64_t k) {
  if constexpr (kKind == PanelKind::kF16)
    return f_load_f16(reinterpret_cast<const std::uint16_t*>(panel) + k * kPanelRows);
  if constexpr (kKind == PanelKind::kBf16) {
    const I32 pair = u_as_i(u_load(panel + k / 2 * 4 * kPanelRows));
    return i_as_f(k % 2 == 0 ? i_shl(pair, 16) : i_and(pair, static_cast<int>(0xFFFF0000)));
  }
  return f_load(reinterpret_cast<const float*>(panel) + k * kPanelRows);
}

template <PanelKind kKind, typename Visit>
inline void visit_dense(const PanelView& m, const std::uint8_t* codes, const Visit& visit) {
  for (std::int64_t begin = 0; begin < m.cols; begin += 4) {
    MM_UNROLL(4)
    for (int j = 0; j < 4; ++j) {
      const std::int64_t k = begin + j;
      if (k >= m.cols) break;
      visit(k, j, dense_element<kKind>(codes, k));
    }
  }
}

// Inlined whatever the compiler thinks of its size: what `visit` adds to would else lie in memory.
template <typename Visit>
__attribute__((always_inline)) inline void visit_inputs(const PanelView& m, std::int64_t panel, const float* scales,
                                                        const Visit& visit) {
  const std::uint8_t* const codes = m.codes + static_cast<std::size_t>(panel) * m.panel_bytes;
  switch (m.kind) {
    case PanelKind::kCodes2:
      if (m.table) return visit_codes<PanelKind::kCodes2, true>(m, codes, scales, visit);
      return visit_codes<PanelKind::kCodes2, false>(m, codes, scales, visit);
    case PanelKind::kCodes3:
      if (m.table) return visit_codes<PanelKind::kCodes3, true>(m, codes, scales, visit);
      return visit_codes<PanelKind::kCodes3, false>(m, codes, scales, visit);
    case PanelKind::kCodes4:
      if (m.table) return visit_codes<PanelKind::kCodes4, true>(m, codes, scales, visit);
      return visit_codes<PanelKind::kCodes4, false>(m, codes, scales, visit);
    case PanelKind::kSparse4: return visit_codes<PanelKind::kSparse4, true>(m, codes, scales, visit);
    case PanelKind::kCodes5: return visit_codes<PanelKind::kCodes5, false>(m, codes, scales, visit);
    case PanelKind::kCodes6: return visit_codes<PanelKind::kCodes6, false>(m, codes, scales, visit);
    case PanelKind::kCodes8: return visit_codes<PanelKind::kCodes8, false>(m, codes, scales, visit);
    case PanelKind::kE4m3: return visit_codes<PanelKind::kE4m3, false>(m, codes, scales, visit);
    case PanelKind::kE5m2: return visit_codes<PanelKind::kE5m2, false>(m, codes, scales, visit);
    case PanelKind::kF16: return visit_dense<PanelKind::kF16>(m, codes, visit);
    case PanelKind::kBf16: return visit_dense<PanelKind::kBf16>(m, codes, visit);
    case PanelKind::kF32: return visit_dense<PanelKind::kF32>(m, codes, visit);
  }
}

template <int kTokens, int kChains>
inline void f32_panel(const PanelView& m, std::int64_t panel, const float* scales, const float* x, std::int64_t stride,
                      F32* acc) {
  Sums<kTokens, kChains> sum;
  visit_inputs(
      m, panel, scales, [&](std::int64_t k, int j, F32 w) __attribute__((always_inline)) {
        MM_UNROLL(8)
        for (int t = 0; t < kTokens; ++t) sum.at(t, j) = f_fma(w, f_set(x[t * stride + k]), sum.at(t, j));
      });
  sum.store(acc);
}

template <int kTokens>
inline void transposed_tokens(const TransposedTile& tile, std::int64_t first) {
  const PanelView& m = *tile.matrix;
  float* const sums = tile.scratch + scratch_floats(m);  // [inputs][tokens][16]
  const std::int64_t size = m.blocks * kBlock * kTokens;
  for (std::int64_t i = 0; i < size; ++i) f_store(sums + i * kPanelRows, f_set(0.0F));
  for (std::int64_t panel = 0; panel * kPanelRows < m.rows; ++panel) {
    expand_scales(m, panel, false, tile.scratch);
    const int valid = static_cast<int>(lesser(kPanelRows, m.rows - panel * kPanelRows));
    F32 x[kTokens];
    for (int t = 0; t < kTokens; ++t)
      x[t] = f_load_part(tile.x + (first + t) * tile.x_stride + panel * kPanelRows, valid);
    visit_inputs(
        m, panel, tile.scratch, [&](std::int64_t k, int, F32 w) __attribute__((always_inline)) {
          MM_UNROLL(4)
          for (int t = 0; t < kTokens; ++t) {
            float* const at = sums + (k * kTokens + t) * kPanelRows;
            f_store(at, f_fma(w, x[t], f_load(at)));
          }
        });
  }
  for (int t = 0; t < kTokens; ++t) {
    float* const out = tile.out + (first + t) * tile.out_stride;
    for (std::int64_t k = 0; k < m.cols; ++k) out[k] = f_reduce_add(f_load(sums + (k * kTokens + t) * kPanelRows));
  }
}

void linear_transposed(const TransposedTile& tile) {
  std::int64_t t = 0;
  for (; t + kTransposedTokens <= tile.tokens; t += kTransposedTokens) transposed_tokens<kTransposedTokens>(tile, t);
  for (; t < tile.tokens; ++t) transposed_tokens<1>(tile, t);
}

// ---- bf16 activations -------------------------------------------------------

template <int kTokens, int kChains>
inline void bf16_panel(const PanelView& m, std::int64_t panel, const std::uint16_t* x, std::int64_t stride, F32* acc) {
  if constexpr (kBf16Dot) {
    const std::uint8_t* const weights = m.codes + static_cast<std::size_t>(panel) * m.panel_bytes;
    const std::int64_t pairs = (m.cols + 1) / 2;
    Sums<kTokens, kChains> sum;
    for (std::int64_t begin = 0; begin < pairs; begin += 4) {
      MM_UNROLL(4)
      for (int j = 0; j < 4; ++j) {
        const std::int64_t pair = begin + j;
        if (pair >= pairs) break;
        const U8 w = u_load(weights + pair * 4 * kPanelRows);
        MM_UNROLL(8)
        for (int t = 0; t < kTokens; ++t) sum.at(t, j) = f_dot_bf16(sum.at(t, j), w, x + t * stride + 2 * pair);
      }
    }
    sum.store(acc);
  }
}

// ---- one panel for all tokens ----------------------------------------------

inline F32 load_bias(const float* bias, std::int64_t panel, int valid) {
  return bias == nullptr ? f_set(0.0F) : f_load_part(bias + panel * kPanelRows, valid);
}

template <LinearInput kInput, int kTokens, int kChains = 1>
inline void linear_tokens(const LinearTile& tile, std::int64_t first, int valid) {
  F32 acc[kTokens];
  F32 gate[kTokens];
  for (F32& sum : gate) sum = f_set(0.0F);  // which the compiler cannot see to be set below
  const auto run = [&](const PanelView& m, const float* scales, F32* sums) {
    if constexpr (kInput == LinearInput::kQ8) {
      q8_dispatch<kTokens>(m, tile.panel, scales, tile.q8 + first * tile.x_stride, tile.x_stride, sums);
    } else if constexpr (kInput == LinearInput::kBf16) {
      bf16_panel<kTokens, kChains>(m, tile.panel, tile.bf16 + first * tile.x_stride, tile.x_stride, sums);
    } else {
      f32_panel<kTokens, kChains>(m, tile.panel, scales, tile.x + first * tile.x_stride, tile.x_stride, sums);
    }
  };
  run(*tile.matrix, tile.scratch, acc);
  if (tile.gate != nullptr) run(*tile.gate, tile.scratch + scratch_floats(*tile.matrix), gate);
  const F32 bias = load_bias(tile.bias, tile.panel, valid);
  for (int t = 0; t < kTokens; ++t) {
    F32 y = f_add(acc[t], bias);
    if (tile.gate != nullptr) y = f_gated(tile.form, f_add(gate[t], load_bias(tile.gate_bias, tile.panel, valid)), y);
    float* const out = tile.out + (first + t) * tile.out_stride + tile.panel * kPanelRows;
    if (tile.accumulate) y = f_add(y, f_load_part(out, valid));
    f_store_part(out, y, valid);
  }
}

// Up to 7 tokens whose sums have one order: few decodings of the weights, as what speculation checks costs that much.
template <LinearInput kInput>
inline void linear_rest(const LinearTile& tile, std::int64_t t, int valid) {
  while (t < tile.tokens) {
    switch (tile.tokens - t) {
      case 1: linear_tokens<kInput, 1>(tile, t, valid); return;
      case 2: linear_tokens<kInput, 2>(tile, t, valid); return;
      case 3: linear_tokens<kInput, 3>(tile, t, valid); return;
      case 5: linear_tokens<kInput, 5>(tile, t, valid); return;
      case 6:
        linear_tokens<kInput, 3>(tile, t, valid);
        t += 3;
        break;
      default: linear_tokens<kInput, 4>(tile, t, valid); t += 4;
    }
  }
}

template <LinearInput kInput>
void linear(const LinearTile& tile) {
  constexpr bool kIntegerDot = kInput == LinearInput::kQ8;
  expand_scales(*tile.matrix, tile.panel, kIntegerDot, tile.scratch);
  if (tile.gate != nullptr)
    expand_scales(*tile.gate, tile.panel, kIntegerDot, tile.scratch + scratch_floats(*tile.matrix));
  const int valid = static_cast<int>(lesser(kPanelRows, tile.matrix->rows - tile.panel * kPanelRows));
  std::int64_t t = 0;
  for (; t + 8 <= tile.tokens; t += 8) linear_tokens<kInput, 8>(tile, t, valid);
  if (kIntegerDot || tile.one_order) {
    linear_rest<kInput>(tile, t, valid);
    return;
  }
  for (; t + 4 <= tile.tokens; t += 4) linear_tokens<kInput, 4>(tile, t, valid);
  for (; t < tile.tokens; ++t) linear_tokens<kInput, 1, 4>(tile, t, valid);
}

// ---- vectors ---------------------------------------------------------------

void quantize_q8(const float* x, std::int64_t n, Q8Block* out) {
  for (std::int64_t begin = 0; begin < n; begin += kBlock, ++out) {
    const int left = static_cast<int>(lesser(n - begin, kBlock));
    const F32 a = f_load_part(x + begin, static_cast<int>(lesser(left, 16)));
    const F32 b = left > 16 ? f_load_part(x + begin + 16, left - 16) : f_set(0.0F);
    const float largest = f_reduce_max(f_max(f_abs(a), f_abs(b)));
    const float scale = largest / 127.0F;
    const F32 inverse = f_set(largest > 0 ? 127.0F / largest : 0.0F);
    out->scale = scale;
    const F32 qa = f_round(f_mul(a, inverse));
    const F32 qb = f_round(f_mul(b, inverse));
    f_store_i8(out->q, qa);
    f_store_i8(out->q + 16, qb);
    out->low_sum = scale * f_reduce_add(qa);
    out->high_sum = scale * f_reduce_add(qb);
    out->sum = out->low_sum + out->high_sum;
  }
}

void round_bf16(const float* x, std::int64_t n, std::uint16_t* out) {
  if constexpr (kBf16Dot) {
    for (std::int64_t i = 0; i < n; i += 16) f_store_bf16(out + i, f_load(x + i));
  }
}

void rms_norm(const float* x, const float* weight, std::int64_t n, float eps, float* out) {
  F32 squares = f_set(0.0F);
  for (std::int64_t i = 0; i < n; i += 16) {
    const F32 v = f_load_part(x + i, static_cast<int>(lesser(16, n - i)));
    squares = f_fma(v, v, squares);
  }
  const F32 factor = f_set(1.0F / __builtin_sqrtf(f_reduce_add(squares) / static_cast<float>(n) + eps));
  for (std::int64_t i = 0; i < n; i += 16) {
    const int left = static_cast<int>(lesser(16, n - i));
    f_store_part(out + i, f_mul(f_mul(f_load_part(x + i, left), factor), f_load_part(weight + i, left)), left);
  }
}

void layer_norm(const float* x, const float* weight, std::int64_t n, float eps, float* out) {
  F32 sum = f_set(0.0F);
  for (std::int64_t i = 0; i < n; i += 16) sum = f_add(sum, f_load_part(x + i, static_cast<int>(lesser(16, n - i))));
  const F32 mean = f_set(f_reduce_add(sum) / static_cast<float>(n));
  F32 squares = f_set(0.0F);
  for (std::int64_t i = 0; i < n; i += 16) {
    const int left = static_cast<int>(lesser(16, n - i));
    f_store_part(out + i, f_sub(f_load_part(x + i, left), mean), left);
    const F32 v = f_load_part(out + i, left);  // zeros where there is nothing
    squares = f_fma(v, v, squares);
  }
  const F32 factor = f_set(1.0F / __builtin_sqrtf(f_reduce_add(squares) / static_cast<float>(n) + eps));
  for (std::int64_t i = 0; i < n; i += 16) {
    const int left = static_cast<int>(lesser(16, n - i));
    f_store_part(out + i, f_mul(f_mul(f_load_part(out + i, left), factor), f_load_part(weight + i, left)), left);
  }
}

void gated(const GateForm& form, const float* gate, const float* up, std::int64_t n, float* out) {
  for (std::int64_t i = 0; i < n; i += 16) {
    const int left = static_cast<int>(lesser(16, n - i));
    f_store_part(out + i, f_gated(form, f_load_part(gate + i, left), f_load_part(up + i, left)), left);
  }
}

void scale_row(float* x, std::int64_t n, float factor, float soft_cap) {
  for (std::int64_t i = 0; i < n; i += 16) {
    const int left = static_cast<int>(lesser(16, n - i));
    F32 y = f_mul(f_load_part(x + i, left), f_set(factor));
    if (soft_cap != 0) y = f_mul(f_set(soft_cap), f_tanh(f_div(y, f_set(soft_cap))));
    f_store_part(x + i, y, left);
  }
}

void add(float* x, const float* y, std::int64_t n, float factor) {
  for (std::int64_t i = 0; i < n; i += 16) {
    const int left = static_cast<int>(lesser(16, n - i));
    f_store_part(x + i, f_fma(f_set(factor), f_load_part(y + i, left), f_load_part(x + i, left)), left);
  }
}

void rope(float* x, std::int64_t heads, std::int64_t head_dim, std::int64_t half, const float* cosines,
          const float* sines) {
  for (std::int64_t h = 0; h < heads; ++h, x += head_dim) {
    for (std::int64_t i = 0; i < half; i += 16) {
      const int left = static_cast<int>(lesser(16, half - i));
      const F32 a = f_load_part(x + i, left);
      const F32 b = f_load_part(x + half + i, left);
      const F32 cosine = f_load_part(cosines + i, left);
      const F32 sine = f_load_part(sines + i, left);
      f_store_part(x + i, f_sub(f_mul(a, cosine), f_mul(b, sine)), left);
      f_store_part(x + half + i, f_add(f_mul(b, cosine), f_mul(a, sine)), left);
    }
  }
}

void rope_interleaved(float* x, std::int64_t pairs, const float* cosines, const float* sines) {
  for (std::int64_t i = 0; i < pairs; ++i) {
    const float a = x[2 * i];
    const float b = x[2 * i + 1];
    x[2 * i] = a * cosines[i] - b * sines[i];
    x[2 * i + 1] = b * cosines[i] + a * sines[i];
  }
}

}  // namespace
}  // namespace metal_marlin::cpu

#include "backends/cpu/attention_impl.h"

namespace metal_marlin::cpu {
namespace {

constexpr Kernels make_kernels(const char* name) {
  return {name,
          linear<LinearInput::kQ8>,
          linear<LinearInput::kF32>,
          kBf16Dot ? linear<LinearInput::kBf16> : nullptr,
          quantize_q8,
          kBf16Dot ? round_bf16 : nullptr,
          rms_norm,
          layer_norm,
          gated,
          scale_row,
          add,
          linear_transposed,
          rope,
          rope_interleaved,
          store_kv,
          attention};
}

}  // namespace
}  // namespace metal_marlin::cpu
