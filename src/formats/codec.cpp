#include "formats/codec.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "formats/number_format.h"
#include "formats/small_floats.h"

namespace metal_marlin {
namespace {

void round_to_levels(const NumberFormat& format, std::span<const float> x, float* rounded) {
  std::array<std::int32_t, 256> index;
  for (std::size_t begin = 0; begin < x.size(); begin += index.size()) {
    const std::size_t n = std::min(index.size(), x.size() - begin);
    std::fill_n(index.begin(), n, 0);
    for (const float cut : format.cuts) {
      for (std::size_t i = 0; i < n; ++i) index[i] += x[begin + i] > cut ? 1 : 0;
    }
    for (std::size_t i = 0; i < n; ++i) rounded[begin + i] = format.values[static_cast<std::size_t>(index[i])];
  }
}

// 1.5 * 2^23: adding and taking it away rounds |x| < 2^22 to the nearest even
// integer without a library call.
constexpr float kRounder = 12582912.0F;

void round_to_integers(float low, float high, std::span<const float> x, float* rounded) {
  for (std::size_t i = 0; i < x.size(); ++i) {
    float v = x[i] < low ? low : x[i];
    v = v > high ? high : v;
    rounded[i] = (v + kRounder) - kRounder;
  }
}

// Steps between neighbouring levels of E2M1 are added up by comparison; the
// comparisons alternate so that ties fall on the even code.
void round_to_e2m1(std::span<const float> x, float* rounded) {
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float a = std::fabs(x[i]);
    float v = a > 0.25F ? 0.5F : 0.0F;
    v += a >= 0.75F ? 0.5F : 0.0F;
    v += a > 1.25F ? 0.5F : 0.0F;
    v += a >= 1.75F ? 0.5F : 0.0F;
    v += a > 2.5F ? 1.0F : 0.0F;
    v += a >= 3.5F ? 1.0F : 0.0F;
    v += a > 5.0F ? 2.0F : 0.0F;
    rounded[i] = std::copysign(v, x[i]);
  }
}

std::uint8_t encode_e2m1(std::span<const float> values, float value) {
  float rounded = 0;
  round_to_e2m1({&value, 1}, &rounded);
  const auto magnitudes = values.first(8);
  const auto at = std::find(magnitudes.begin(), magnitudes.end(), std::fabs(rounded)) - magnitudes.begin();
  return static_cast<std::uint8_t>(at | (std::signbit(value) ? 8 : 0));
}

std::uint8_t encode_level(const NumberFormat& format, float value) {
  int code = 0;
  for (const float cut : format.cuts) code += value > cut ? 1 : 0;
  return static_cast<std::uint8_t>(code);
}

template <int kMantissa, int kMinExponent>
void round_to_float8(float largest, std::span<const float> x, float* rounded) {
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float magnitude = std::fabs(x[i]);
    const float grid = round_to_grid<kMantissa, kMinExponent>(magnitude > largest ? largest : magnitude);
    rounded[i] = std::copysign(grid, x[i]);
  }
}

std::uint8_t encode_integer(float low, float high, float value) {
  const float clamped = std::clamp(value, low, high);
  return static_cast<std::uint8_t>(static_cast<int>(std::nearbyint(clamped)) - static_cast<int>(low));
}

}  // namespace

std::span<const float> decode_table(Format format) {
  return number_format(format).values;
}

std::uint8_t zero_code(Format format) {
  return number_format(format).zero_code;
}

std::uint8_t encode(Format format, float value) {
  const NumberFormat& number = number_format(format);
  switch (number.kind) {
    case ElementKind::kE4m3: return f32_to_e4m3(value);
    case ElementKind::kE5m2: return f32_to_e5m2(value);
    default: break;
  }
  if (std::isnan(value)) return number.zero_code;
  switch (number.kind) {
    case ElementKind::kE2m1: return encode_e2m1(number.values, value);
    case ElementKind::kLevels: return encode_level(number, value);
    default: return encode_integer(number.values.front(), number.values.back(), value);
  }
}

void round_to_elements(Format format, std::span<const float> x, float* rounded) {
  const NumberFormat& number = number_format(format);
  switch (number.kind) {
    case ElementKind::kE2m1: return round_to_e2m1(x, rounded);
    case ElementKind::kLevels: return round_to_levels(number, x, rounded);
    case ElementKind::kInteger: return round_to_integers(number.low(), number.high(), x, rounded);
    case ElementKind::kE4m3: return round_to_float8<3, -6>(448.0F, x, rounded);
    case ElementKind::kE5m2: return round_to_float8<2, -14>(57344.0F, x, rounded);
  }
}

std::array<int, 2> code_planes(int bits) {
  switch (bits) {
    case 3: return {2, 1};
    case 5: return {4, 1};
    case 6: return {4, 2};
    default: return {bits, 0};
  }
}

}  // namespace metal_marlin
