// What a cache keeps of a key or value.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "backends/msl/attention.h"
#include "backends/msl/typed_data.h"
#include "formats/codec.h"

namespace metal_marlin::msl {

// The nearest of a format's magnitudes, ties to the even code.
inline float nearest_element(Format format, float v) {
  const std::span<const float> levels = decode_table(format);
  std::size_t best = 0;
  const std::size_t half = levels.size() / 2;  // magnitudes, before those with a sign
  for (std::size_t code = 1; code < half; ++code) {
    if (std::isnan(levels[code])) continue;
    const double far = std::fabs(std::fabs(static_cast<double>(v)) - static_cast<double>(levels[code]));
    const double nearest = std::fabs(std::fabs(static_cast<double>(v)) - static_cast<double>(levels[best]));
    if (far < nearest || (far == nearest && code % 2 == 0)) best = code;
  }
  return std::copysign(levels[best], v);
}

inline std::vector<float> cached_row(CacheType type, const std::vector<float>& row) {
  if (type == CacheType::kF32) return row;
  if (type == CacheType::kF16) return TypedData(DType::kF16, row).values;
  if (type == CacheType::kBf16) return TypedData(DType::kBf16, row).values;
  std::vector<float> out;
  const float largest = type == CacheType::kInt8   ? 127.0F
                        : type == CacheType::kInt4 ? 7.0F
                        : type == CacheType::kFp8  ? 448.0F
                                                   : 6.0F;
  for (std::size_t begin = 0; begin < row.size(); begin += 32) {
    const std::size_t end = std::min(begin + 32, row.size());
    float top = 0;
    for (std::size_t i = begin; i < end; ++i) top = std::max(top, std::fabs(row[i]));
    const float scale = f16_to_f32(f32_to_f16(top / largest));
    const float inverse = scale > 0 ? 1.0F / scale : 0.0F;
    for (std::size_t i = begin; i < end; ++i) {
      const float v = std::clamp(row[i] * inverse, -largest, largest);
      const float code = type == CacheType::kFp8   ? nearest_element(Format::kFp8E4M3, v)
                         : type == CacheType::kFp4 ? nearest_element(Format::kFp4, v)
                                                   : std::nearbyint(v);
      out.push_back(code * scale);
    }
  }
  return out;
}

// A cache's row and, of each element, how far the numbers lie apart that it could have been.
struct HeldRow {
  std::vector<float> values;
  std::vector<float> steps;
};

// Of E4M3 and E2M1: fractions of `fraction_bits`, exponents from `least` on.
inline float float_step(float v, int fraction_bits, int least) {
  return std::ldexp(1.0F, std::max(v == 0 ? least : std::ilogb(v), least) - fraction_bits);
}

// Codes from the row's begin on, then scales of 32 elements, each from a multiple of 4 bytes on.
inline HeldRow held_row(CacheType type, const std::byte* row, std::size_t width) {
  HeldRow held;
  if (type == CacheType::kF32 || type == CacheType::kF16 || type == CacheType::kBf16) {
    const DType dtype = type == CacheType::kF32 ? DType::kF32 : type == CacheType::kF16 ? DType::kF16 : DType::kBf16;
    const TypedData data(dtype, std::span(row, width * (type == CacheType::kF32 ? 4 : 2)));
    held.values = data.values;
    const float least = type == CacheType::kF16 ? 0x1p-24F : 0;  // subnormal numbers lie no closer
    for (const float v : held.values)
      held.steps.push_back(std::max(2 * static_cast<float>(data.unit()) * std::fabs(v), least));
    return held;
  }
  const bool eight = type == CacheType::kFp8 || type == CacheType::kInt8;
  const std::size_t scales_at = ((eight ? width : (width + 1) / 2) + 3) / 4 * 4;
  for (std::size_t i = 0; i < width; ++i) {
    const auto byte = std::to_integer<std::uint32_t>(row[eight ? i : i / 2]);
    const std::uint32_t code = eight ? byte : byte >> (i % 2 * 4) & 0xF;
    std::uint16_t half = 0;
    std::memcpy(&half, row + scales_at + i / 32 * 2, sizeof(half));
    const float scale = f16_to_f32(half);
    const float v = type == CacheType::kInt8 ? static_cast<float>(static_cast<std::int8_t>(code))
                    : type == CacheType::kInt4
                        ? static_cast<float>(static_cast<int>(code ^ 8U) - 8)
                        : decode_table(type == CacheType::kFp8 ? Format::kFp8E4M3 : Format::kFp4)[code];
    const float step = type == CacheType::kFp8   ? float_step(v, 3, -6)
                       : type == CacheType::kFp4 ? float_step(v, 1, 0)
                                                 : 1;
    held.values.push_back(v * scale);
    // The scale itself is rounded, so that the largest lies as much beyond the last code.
    held.steps.push_back(step * scale + std::fabs(v * scale) * 0x1p-10F);
  }
  return held;
}

}  // namespace metal_marlin::msl
