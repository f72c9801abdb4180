// Conversions between f32 and the narrow floating-point types, portable and
// exact, rounding to nearest even.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace metal_marlin {

inline float f16_to_f32(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000U) << 16;
  const std::uint32_t exponent = (h >> 10) & 0x1FU;
  const std::uint32_t mantissa = h & 0x3FFU;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24 is exact in f32
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | sign);
  }
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000U | (mantissa << 13));
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

inline std::uint16_t f32_to_f16(float f) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(f);
  const std::uint32_t sign = (bits >> 16) & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return static_cast<std::uint16_t>(sign | 0x7E00U);
  if (magnitude >= 0x477FF000U) return static_cast<std::uint16_t>(sign | 0x7C00U);  // >= 65520
  if (magnitude < 0x38800000U) {  // subnormal: let the f32 adder do the rounding
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F000000U));
  }
  const std::uint32_t rounded = magnitude + 0xFFFU + ((magnitude >> 13) & 1U);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
}

inline float bf16_to_f32(std::uint16_t b) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(b) << 16);
}

inline std::uint16_t f32_to_bf16(float f) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(f);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

// E8M0 (OCP MX): 2^(code - 127), code 255 is NaN.
inline float e8m0_to_f32(std::uint8_t e) {
  if (e == 255) return std::bit_cast<float>(0x7FC00000U);
  if (e == 0) return 0x1p-127F;
  return std::bit_cast<float>(static_cast<std::uint32_t>(e) << 23);
}

inline float e4m3_to_f32(std::uint8_t c) {
  if ((c & 0x7F) == 0x7F) return std::bit_cast<float>(0x7FC00000U | static_cast<std::uint32_t>(c & 0x80) << 24);
  const std::uint32_t magnitude = static_cast<std::uint32_t>(c & 0x7F) << 20;
  const float value = std::bit_cast<float>(magnitude) * 0x1p120F;
  return (c & 0x80) != 0 ? -value : value;
}

inline float e5m2_to_f32(std::uint8_t c) {
  return f16_to_f32(static_cast<std::uint16_t>(c << 8));
}

// Rounds a magnitude to nearest even among floats with kMantissa stored bits and
// smallest normal exponent kMinExponent. Branch-free, so that loops vectorize.
template <int kMantissa, int kMinExponent>
inline float round_to_grid(float magnitude) {
  constexpr std::uint32_t kDropped = 23 - kMantissa;
  // In [magic, 2 magic) the f32 spacing is the subnormal step of the grid.
  constexpr auto kMagic = std::bit_cast<float>(static_cast<std::uint32_t>(kMinExponent - kMantissa + 23 + 127) << 23);
  constexpr auto kSmallestNormal = std::bit_cast<float>(static_cast<std::uint32_t>(kMinExponent + 127) << 23);
  const float subnormal = (magnitude + kMagic) - kMagic;
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(magnitude);
  const std::uint32_t half = (1U << (kDropped - 1)) - 1 + ((bits >> kDropped) & 1U);
  const auto normal = std::bit_cast<float>((bits + half) & ~((1U << kDropped) - 1));
  return magnitude < kSmallestNormal ? subnormal : normal;
}

// Saturates to +-448 (infinity too); NaN becomes the NaN code.
inline std::uint8_t f32_to_e4m3(float f) {
  const std::uint8_t sign = std::signbit(f) ? 0x80 : 0;
  if (std::isnan(f)) return static_cast<std::uint8_t>(sign | 0x7F);
  const float magnitude = std::fabs(f);
  if (magnitude >= 448.0F) return static_cast<std::uint8_t>(sign | 0x7E);
  const float rounded = round_to_grid<3, -6>(magnitude);
  return static_cast<std::uint8_t>(sign | (std::bit_cast<std::uint32_t>(rounded * 0x1p-120F) >> 20));
}

// Saturates to +-57344 (infinity too); NaN becomes a NaN code.
inline std::uint8_t f32_to_e5m2(float f) {
  const std::uint8_t sign = std::signbit(f) ? 0x80 : 0;
  if (std::isnan(f)) return static_cast<std::uint8_t>(sign | 0x7F);
  const float magnitude = std::fabs(f);
  if (magnitude >= 57344.0F) return static_cast<std::uint8_t>(sign | 0x7B);
  return static_cast<std::uint8_t>(sign | (f32_to_f16(round_to_grid<2, -14>(magnitude)) >> 8));
}

}  // namespace metal_marlin
