#include "formats/codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "formats/small_floats.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

class EveryFormat : public testing::TestWithParam<FormatInfo> {};

std::string format_name(const testing::TestParamInfo<FormatInfo>& test) {
  std::string name(test.param.name);
  std::erase(name, '-');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Formats, EveryFormat, testing::ValuesIn(all_formats().begin(), all_formats().end()),
                         format_name);

TEST_P(EveryFormat, TableHasAValueForEveryCode) {
  EXPECT_EQ(decode_table(GetParam().format).size(), std::size_t{1} << GetParam().bits);
}

TEST_P(EveryFormat, EveryCodeSurvivesARoundTrip) {
  const Format format = GetParam().format;
  const auto table = decode_table(format);
  for (std::size_t code = 0; code < table.size(); ++code) {
    if (std::isinf(table[code])) {  // saturates
      EXPECT_EQ(table[encode(format, table[code])], std::copysign(57344.0F, table[code]));
    } else if (std::isnan(table[code])) {
      EXPECT_TRUE(std::isnan(table[encode(format, table[code])]));
    } else {
      EXPECT_EQ(encode(format, table[code]), code);
    }
  }
}

// Over every f16 number: the chosen value is nearest in exact arithmetic.
TEST_P(EveryFormat, EncodesToTheNearestValue) {
  const Format format = GetParam().format;
  const auto table = decode_table(format);
  std::vector<double> finite;
  for (const float value : table) {
    if (std::isfinite(value)) finite.push_back(value);
  }
  std::sort(finite.begin(), finite.end());
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const float x = f16_to_f32(static_cast<std::uint16_t>(bits));
    if (std::isnan(x)) continue;
    const double clamped = std::clamp(static_cast<double>(x), finite.front(), finite.back());
    const double chosen = table[encode(format, x)];
    const auto above = std::lower_bound(finite.begin(), finite.end(), clamped);
    double best = *above - clamped;
    if (above != finite.begin()) best = std::min(best, clamped - *(above - 1));
    ASSERT_EQ(std::fabs(chosen - clamped), best) << "x = " << x << ", chose " << chosen;
  }
}

TEST_P(EveryFormat, VectorRoundingAgreesWithEncoding) {
  const Format format = GetParam().format;
  if (format == Format::kInt8) return;  // rounds to [-127, 127]: tested below
  std::vector<float> x;
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const float value = f16_to_f32(static_cast<std::uint16_t>(bits));
    if (std::isfinite(value)) x.push_back(value);
  }
  std::vector<float> rounded(x.size());
  round_to_elements(format, x, rounded.data());
  const auto table = decode_table(format);
  for (std::size_t i = 0; i < x.size(); ++i) ASSERT_EQ(rounded[i], table[encode(format, x[i])]) << x[i];
}

TEST_P(EveryFormat, NanAndInfinityHaveADefinedOutcome) {
  const Format format = GetParam().format;
  const auto table = decode_table(format);
  float low = 0;
  float high = 0;
  for (const float value : table) {
    if (!std::isfinite(value)) continue;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  EXPECT_EQ(table[encode(format, INFINITY)], high);
  EXPECT_EQ(table[encode(format, -INFINITY)], low);
  const float nan = table[encode(format, NAN)];
  if (format == Format::kFp8E4M3 || format == Format::kFp8E5M2) {
    EXPECT_TRUE(std::isnan(nan));
  } else {
    EXPECT_EQ(encode(format, NAN), zero_code(format));
  }
}

TEST(Codec, Int8RoundsToTheSymmetricRange) {
  const std::vector<float> x{-1000, -127.4F, -0.5F, 0.5F, 1.5F, 2.5F, 1000};
  std::vector<float> rounded(x.size());
  round_to_elements(Format::kInt8, x, rounded.data());
  EXPECT_EQ(rounded, (std::vector<float>{-127, -127, -0.0F, 0, 2, 2, 127}));
}

TEST(Codec, TiesGoToTheEvenCode) {
  const auto fp4 = decode_table(Format::kFp4);
  const std::vector<std::pair<float, float>> ties{{0.25F, 0}, {0.75F, 1}, {1.25F, 1}, {1.75F, 2},
                                                  {2.5F, 2},  {3.5F, 4},  {5, 4}};
  for (const auto& [x, expected] : ties) {
    EXPECT_EQ(fp4[encode(Format::kFp4, x)], expected);
    EXPECT_EQ(fp4[encode(Format::kFp4, -x)], -expected);
  }
  EXPECT_EQ(encode(Format::kS4, 0.5F), 8);
  EXPECT_EQ(encode(Format::kS4, 1.5F), 10);
}

// Tables and encodings of an independent implementation.
class MlDtypes : public testing::TestWithParam<Format> {};
INSTANTIATE_TEST_SUITE_P(Types, MlDtypes, testing::Values(Format::kFp4, Format::kFp8E4M3, Format::kFp8E5M2));

TEST_P(MlDtypes, DecodesAlike) {
  const SafetensorsFile file(test_data("formats.safetensors"));
  const auto expected = read_tensor<float>(file, std::string(format_info(GetParam()).name) + ".decode");
  const auto table = decode_table(GetParam());
  ASSERT_EQ(table.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(expected[i])) {
      EXPECT_TRUE(std::isnan(table[i])) << i;
    } else {
      EXPECT_EQ(std::bit_cast<std::uint32_t>(table[i]), std::bit_cast<std::uint32_t>(expected[i])) << i;
    }
  }
}

TEST_P(MlDtypes, EncodesAlike) {
  const SafetensorsFile file(test_data("formats.safetensors"));
  const auto expected = read_tensor<std::uint8_t>(file, std::string(format_info(GetParam()).name) + ".encode");
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const float x = f16_to_f32(static_cast<std::uint16_t>(bits));
    if (!std::isnan(x)) {
      ASSERT_EQ(encode(GetParam(), x), expected[bits]) << x;
    }
  }
}

TEST(SmallFloats, ConversionsAgreeWithMlDtypesAndNumpy) {
  const SafetensorsFile file(test_data("formats.safetensors"));
  const auto e8m0 = read_tensor<float>(file, "e8m0.decode");
  for (unsigned i = 0; i < 255; ++i) EXPECT_EQ(e8m0_to_f32(static_cast<std::uint8_t>(i)), e8m0[i]);
  EXPECT_TRUE(std::isnan(e8m0_to_f32(255)));
  const auto bits = read_tensor<std::uint32_t>(file, "f32.bits");
  const auto halves = read_tensor<std::uint16_t>(file, "f32.as_f16");
  const auto brains = read_tensor<std::uint16_t>(file, "f32.as_bf16");
  for (std::size_t i = 0; i < bits.size(); ++i) {
    const float x = std::bit_cast<float>(bits[i]);
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(f16_to_f32(f32_to_f16(x))));
      EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(x))));
      continue;
    }
    ASSERT_EQ(f32_to_f16(x), halves[i]) << bits[i];
    ASSERT_EQ(f32_to_bf16(x), brains[i]) << bits[i];
  }
}

TEST(SmallFloats, F16RoundTripsExactly) {
  for (unsigned bits = 0; bits < 65536; ++bits) {
    const float x = f16_to_f32(static_cast<std::uint16_t>(bits));
    if (!std::isnan(x)) {
      ASSERT_EQ(f32_to_f16(x), bits);
    }
  }
}

// Inverse of the normal distribution function, by bisection on erfc.
double quantile(double p) {
  double low = -10;
  double high = 10;
  for (int i = 0; i < 200; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

TEST(Codec, NormalFloatTablesFollowTheirDerivation) {
  for (const Format format : {Format::kNf4, Format::kNf3, Format::kNf2}) {
    const double n = static_cast<double>(decode_table(format).size());
    const double top = ((1 - 1 / (2 * n)) + (1 - 1 / (2 * (n - 1)))) / 2;
    std::vector<double> levels{0};
    const auto add_half = [&](double count, double sign) {
      for (int i = 0; i < count; ++i) levels.push_back(sign * quantile(top + (0.5 - top) * i / count));
    };
    add_half(n / 2, 1);
    add_half(n / 2 - 1, -1);
    std::sort(levels.begin(), levels.end());
    const double largest = std::max(-levels.front(), levels.back());
    const auto table = decode_table(format);
    for (std::size_t i = 0; i < levels.size(); ++i) EXPECT_NEAR(table[i], levels[i] / largest, 1e-7);
  }
}

}  // namespace
}  // namespace metal_marlin
