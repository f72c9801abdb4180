#include "formats/codec.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "formats/small_floats.h"

namespace metal_marlin {
namespace {

constexpr std::array<float, 16> kE2m1{0.0F,  0.5F,  1.0F,  1.5F,  2.0F,  3.0F,  4.0F,  6.0F,
                                      -0.0F, -0.5F, -1.0F, -1.5F, -2.0F, -3.0F, -4.0F, -6.0F};
constexpr std::array<float, 16> kNf4{-1.0F,           -0.69619280563F, -0.52507295945F, -0.39491742592F,
                                     -0.28444130892F, -0.18477340280F, -0.09104997599F, 0.0F,
                                     0.07958031496F,  0.16093014438F,  0.24611225135F,  0.33791513671F,
                                     0.44070973186F,  0.56261688797F,  0.72295664416F,  1.0F};
constexpr std::array<float, 8> kNf3{-1.0F,          -0.53502270849F, -0.24693143181F, 0.0F,
                                    0.18333748034F, 0.38199395432F,  0.62298574171F,  1.0F};
constexpr std::array<float, 4> kNf2{-1.0F, 0.0F, 0.43581816458F, 1.0F};
constexpr std::array<float, 16> kIq4Nl{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

template <int kBits>
constexpr std::array<float, (1U << kBits)> integers(int offset) {
  std::array<float, (1U << kBits)> table{};
  for (int i = 0; i < static_cast<int>(table.size()); ++i) {
    table[static_cast<std::size_t>(i)] = static_cast<float>(i - offset);
  }
  return table;
}

template <typename Decode>
std::array<float, 256> float8(Decode decode) {
  std::array<float, 256> table{};
  for (int i = 0; i < 256; ++i) table[static_cast<std::size_t>(i)] = decode(static_cast<std::uint8_t>(i));
  return table;
}

// Largest float not above the exact midpoint, so that `x > cut` decides
// "nearer to the upper level" exactly for every float x.
float midpoint_below(float a, float b) {
  const double middle = (static_cast<double>(a) + static_cast<double>(b)) / 2;
  auto cut = static_cast<float>(middle);
  if (static_cast<double>(cut) > middle) cut = std::nextafter(cut, -std::numeric_limits<float>::infinity());
  return cut;
}

template <std::size_t kSize>
std::array<float, kSize - 1> cuts_between(const std::array<float, kSize>& levels) {
  std::array<float, kSize - 1> cuts;
  for (std::size_t i = 0; i + 1 < kSize; ++i) cuts[i] = midpoint_below(levels[i], levels[i + 1]);
  return cuts;
}

std::span<const float> level_cuts(Format format) {
  static const auto nf4 = cuts_between(kNf4);
  static const auto nf3 = cuts_between(kNf3);
  static const auto nf2 = cuts_between(kNf2);
  static const auto iq4nl = cuts_between(kIq4Nl);
  switch (format) {
    case Format::kNf4: return nf4;
    case Format::kNf3: return nf3;
    case Format::kNf2: return nf2;
    default: return iq4nl;
  }
}

void round_to_levels(Format format, std::span<const float> x, float* rounded) {
  const std::span<const float> table = decode_table(format);
  const std::span<const float> cuts = level_cuts(format);
  std::array<std::int32_t, 256> index;
  for (std::size_t begin = 0; begin < x.size(); begin += index.size()) {
    const std::size_t n = std::min(index.size(), x.size() - begin);
    std::fill_n(index.begin(), n, 0);
    for (const float cut : cuts) {
      for (std::size_t i = 0; i < n; ++i) index[i] += x[begin + i] > cut ? 1 : 0;
    }
    for (std::size_t i = 0; i < n; ++i) rounded[begin + i] = table[static_cast<std::size_t>(index[i])];
  }
}

// 1.5 * 2^23: adding and taking it away rounds |x| < 2^22 to the nearest even
// integer without a library call.
constexpr float kRounder = 12582912.0F;

void round_to_integers(int low, int high, std::span<const float> x, float* rounded) {
  const auto lo = static_cast<float>(low);
  const auto hi = static_cast<float>(high);
  for (std::size_t i = 0; i < x.size(); ++i) {
    float v = x[i] < lo ? lo : x[i];
    v = v > hi ? hi : v;
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

int top_code(Format format) {
  return (1 << format_info(format).bits) - 1;
}

int integer_offset(Format format) {
  return 1 << (format_info(format).bits - 1);
}

std::uint8_t encode_e2m1(float value) {
  float rounded = 0;
  round_to_e2m1({&value, 1}, &rounded);
  const auto* const end = kE2m1.begin() + 8;
  const auto* const at = std::find(kE2m1.begin(), end, std::fabs(rounded));
  return static_cast<std::uint8_t>((at - kE2m1.begin()) | (std::signbit(value) ? 8 : 0));
}

std::uint8_t encode_level(Format format, float value) {
  int code = 0;
  for (const float cut : level_cuts(format)) code += value > cut ? 1 : 0;
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

std::uint8_t encode_integer(int low, int high, float value) {
  const float clamped = std::clamp(value, static_cast<float>(low), static_cast<float>(high));
  return static_cast<std::uint8_t>(static_cast<int>(std::nearbyint(clamped)) - low);
}

}  // namespace

std::span<const float> decode_table(Format format) {
  static constexpr auto kInt2 = integers<2>(2);
  static constexpr auto kInt3 = integers<3>(4);
  static constexpr auto kS4 = integers<4>(8);
  static constexpr auto kU2 = integers<2>(0);
  static constexpr auto kU3 = integers<3>(0);
  static constexpr auto kU4 = integers<4>(0);
  static constexpr auto kInt5 = integers<5>(16);
  static constexpr auto kU5 = integers<5>(0);
  static constexpr auto kU6 = integers<6>(0);
  static constexpr auto kU8 = integers<8>(0);
  static constexpr auto kInt6 = integers<6>(32);
  static constexpr auto kInt8 = integers<8>(128);
  static const auto kE4m3 = float8(e4m3_to_f32);
  static const auto kE5m2 = float8(e5m2_to_f32);
  switch (format) {
    case Format::kFp4:
    case Format::kMxfp4:
    case Format::kNvfp4: return kE2m1;
    case Format::kU4: return kU4;
    case Format::kS4: return kS4;
    case Format::kNf4: return kNf4;
    case Format::kNf3: return kNf3;
    case Format::kNf2: return kNf2;
    case Format::kInt2: return kInt2;
    case Format::kInt3: return kInt3;
    case Format::kInt5: return kInt5;
    case Format::kInt6: return kInt6;
    case Format::kInt8: return kInt8;
    case Format::kFp8E4M3: return kE4m3;
    case Format::kFp8E5M2: return kE5m2;
    case Format::kU5: return kU5;
    case Format::kU2: return kU2;
    case Format::kU3: return kU3;
    case Format::kU6: return kU6;
    case Format::kU8: return kU8;
    case Format::kIq4Nl: return kIq4Nl;
  }
  return {};
}

std::uint8_t encode(Format format, float value) {
  if (format == Format::kFp8E4M3) return f32_to_e4m3(value);
  if (format == Format::kFp8E5M2) return f32_to_e5m2(value);
  if (std::isnan(value)) return zero_code(format);
  if (is_unsigned(format)) return encode_integer(0, top_code(format), value);
  switch (format) {
    case Format::kFp4:
    case Format::kMxfp4:
    case Format::kNvfp4: return encode_e2m1(value);
    case Format::kNf4:
    case Format::kNf3:
    case Format::kNf2:
    case Format::kIq4Nl: return encode_level(format, value);
    default: {
      const int offset = integer_offset(format);
      return encode_integer(-offset, offset - 1, value);
    }
  }
}

std::uint8_t zero_code(Format format) {
  switch (format) {
    case Format::kNf4: return 7;
    case Format::kNf3: return 3;
    case Format::kNf2: return 1;
    case Format::kIq4Nl: return 8;  // no level is zero: 1 is the nearest
    case Format::kS4:
    case Format::kInt2:
    case Format::kInt3:
    case Format::kInt5:
    case Format::kInt6:
    case Format::kInt8: return static_cast<std::uint8_t>(integer_offset(format));
    default: return 0;
  }
}

void round_to_elements(Format format, std::span<const float> x, float* rounded) {
  if (is_unsigned(format)) return round_to_integers(0, top_code(format), x, rounded);
  switch (format) {
    case Format::kFp4:
    case Format::kMxfp4:
    case Format::kNvfp4: return round_to_e2m1(x, rounded);
    case Format::kNf4:
    case Format::kNf3:
    case Format::kNf2:
    case Format::kIq4Nl: return round_to_levels(format, x, rounded);
    case Format::kInt8: return round_to_integers(-127, 127, x, rounded);
    case Format::kFp8E4M3: return round_to_float8<3, -6>(448.0F, x, rounded);
    case Format::kFp8E5M2: return round_to_float8<2, -14>(57344.0F, x, rounded);
    default: {
      const int offset = integer_offset(format);
      return round_to_integers(-offset, offset - 1, x, rounded);
    }
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
