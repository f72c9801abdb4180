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

inline std::vector<float> cached_row(KvType type, const std::vector<float>& row) {
  if (type == KvType::kF32) return row;
  if (type == KvType::kF16) return TypedData(DType::kF16, row).values;
  if (type == KvType::kBf16) return TypedData(DType::kBf16, row).values;
  std::vector<float> out;
  const float largest = type == KvType::kInt8   ? 127.0F
                        : type == KvType::kInt4 ? 7.0F
                        : type == KvType::kFp8  ? 448.0F
                                                : 6.0F;
  for (std::size_t begin = 0; begin < row.size(); begin += 32) {
    const std::size_t end = std::min(begin + 32, row.size());
    float top = 0;
    for (std::size_t i = begin; i < end; ++i) top = std::max(top, std::fabs(row[i]));
    const float scale = f16_to_f32(f32_to_f16(top / largest));
    const float inverse = scale > 0 ? 1.0F / scale : 0.0F;
    for (std::size_t i = begin; i < end; ++i) {
      const float v = std::clamp(row[i] * inverse, -largest, largest);
      const float code = type == KvType::kFp8   ? nearest_element(Format::kFp8E4M3, v)
                         : type == KvType::kFp4 ? nearest_element(Format::kFp4, v)
                                                : std::nearbyint(v);
      out.push_back(code * scale);
    }
  }
  return out;
}

}  // namespace metal_marlin::msl
