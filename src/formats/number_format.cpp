#include "formats/number_format.h"

#include <array>
#include <cmath>
#include <limits>

#include "formats/small_floats.h"
#include "metal_marlin/error.h"

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

std::vector<float> cuts_between(std::span<const float> levels) {
  std::vector<float> cuts;
  for (std::size_t i = 0; i + 1 < levels.size(); ++i) cuts.push_back(midpoint_below(levels[i], levels[i + 1]));
  return cuts;
}

NumberFormat e2m1() {
  return {ElementKind::kE2m1, kE2m1, 0, {6}, 0.5F, "e2m1"};
}
NumberFormat integer(std::span<const float> values, std::string_view codec) {
  return {ElementKind::kInteger, values, static_cast<std::uint8_t>(-values.front()), {}, 1, codec};
}
// unit: 1 where the levels are integers.
NumberFormat levels(std::span<const float> values, std::uint8_t zero_code, std::vector<float> scale_ends, float unit,
                    std::string_view codec) {
  return {ElementKind::kLevels, values, zero_code, std::move(scale_ends), unit, codec, 0, cuts_between(values)};
}
NumberFormat small_float(ElementKind kind, std::span<const float> values, float largest, std::string_view codec) {
  return {kind, values, 0, {largest}, 0, codec};
}

NumberFormat make(Format format) {
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
    case Format::kNvfp4: return e2m1();
    case Format::kU4: return integer(kU4, "int4");
    case Format::kS4: return integer(kS4, "int4");
    case Format::kNf4: return levels(kNf4, 7, {1}, 0, "nf4");
    case Format::kNf3: return levels(kNf3, 3, {1}, 0, "nf3");
    case Format::kNf2: return levels(kNf2, 1, {1, -1}, 0, "nf2");
    case Format::kInt2: return integer(kInt2, "int2");
    case Format::kInt3: return integer(kInt3, "int3");
    case Format::kInt5: return integer(kInt5, "int5");
    case Format::kInt6: return integer(kInt6, "int6");
    case Format::kInt8: {
      NumberFormat out = integer(kInt8, "int8");
      out.largest_code = 127;
      out.scale_ends = {127};
      return out;
    }
    case Format::kFp8E4M3: return small_float(ElementKind::kE4m3, kE4m3, 448, "e4m3");
    case Format::kFp8E5M2: return small_float(ElementKind::kE5m2, kE5m2, 57344, "e5m2");
    case Format::kU5: return integer(kU5, "int5");
    case Format::kIq4Nl: return levels(kIq4Nl, 8, {127, -127}, 1, "iq4nl");  // no level is zero: 1 is the nearest
    case Format::kU2: return integer(kU2, "int2");
    case Format::kU3: return integer(kU3, "int3");
    case Format::kU6: return integer(kU6, "int6");
    case Format::kU8: return integer(kU8, "int8");
  }
  throw Error(ErrorCode::kInternal, "a number format without a description");
}

}  // namespace

const NumberFormat& number_format(Format format) {
  static const std::vector<NumberFormat> all = [] {
    std::vector<NumberFormat> out;
    for (const FormatInfo& info : all_formats()) out.push_back(make(info.format));
    return out;
  }();
  return all[static_cast<std::size_t>(format)];
}

}  // namespace metal_marlin
