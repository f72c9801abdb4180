#include "formats/group_scale.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "formats/codec.h"

namespace metal_marlin {
namespace {

std::vector<float> normal_row(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> out(n);
  for (float& x : out) x = normal(random);
  return out;
}

// What a group's weights become.
std::vector<double> decoded(const FormatSpec& spec, std::span<const float> x, const GroupFit& fit) {
  std::vector<std::uint8_t> codes(x.size());
  encode_group(spec, x, fit, 1, codes.data());
  std::vector<double> out;
  for (const std::uint8_t code : codes) {
    const double element = static_cast<double>(decode_table(spec.format)[code]) - fit.zero;
    out.push_back(static_cast<double>(effective_scale(spec, fit.scale, 1)) * element +
                  static_cast<double>(fit.minimum));
  }
  return out;
}

double squared_error(std::span<const float> x, const std::vector<double>& found) {
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += std::pow(static_cast<double>(x[i]) - found[i], 2);
  return sum;
}

// The error that a fit claims is that of the codes it leads to, and its parts are values that their types hold.
TEST(GroupScale, FitsSayWhatTheyCost) {
  const std::vector<float> x = normal_row(32, 7);
  for (const FormatSpec& spec : {default_spec(Format::kFp4), default_spec(Format::kMxfp4), default_spec(Format::kU4),
                                 default_spec(Format::kInt3), default_spec(Format::kNf4),
                                 FormatSpec{Format::kU4, 32, ScaleType::kBf16, ZeroKind::kInteger}}) {
    const GroupFit fit = fit_group(spec, x, 1);
    const double found = squared_error(x, decoded(spec, x, fit));
    EXPECT_NEAR(fit.squared_error, found, 1e-5 * found) << format_label(spec);
    EXPECT_EQ(round_scale(spec.scale_type, fit.scale), fit.scale) << format_label(spec);
    if (spec.zero == ZeroKind::kMinimum) {
      EXPECT_EQ(round_scale(spec.scale_type, fit.minimum), fit.minimum);
    }
  }
}

// The search never does worse than the rule that maps the largest weight to the
// largest element.
TEST(GroupScale, SearchBeatsTheLargestValueRule) {
  const auto data = normal_row(256 * 32, 4);
  for (const Format format : {Format::kFp4, Format::kS4, Format::kNf4, Format::kNf3, Format::kInt3, Format::kInt2}) {
    const FormatSpec spec = default_spec(format);
    float top = 0;
    for (const float level : decode_table(format)) top = std::max(top, std::fabs(level));
    double searched = 0;
    double plain = 0;
    for (std::size_t begin = 0; begin < data.size(); begin += 32) {
      const std::span<const float> group(data.data() + begin, 32);
      searched += fit_group(spec, group, 1).squared_error;
      float largest = 0;
      for (const float x : group) largest = std::max(largest, std::fabs(x));
      const float scale = round_scale(spec.scale_type, largest / top);
      for (const float x : group) {
        const double difference = x - static_cast<double>(scale) * decode_table(format)[encode(format, x / scale)];
        plain += difference * difference;
      }
    }
    EXPECT_LT(searched, 0.97 * plain) << format_info(format).name;
  }
}

// A weight that matters a thousand times as much as the others is met more closely.
TEST(GroupScale, ImportanceMovesTheScale) {
  const FormatSpec spec = default_spec(Format::kInt3);
  double plain = 0;
  double weighted = 0;
  for (unsigned seed = 0; seed < 40; ++seed) {
    const std::vector<float> x = normal_row(32, seed);
    std::vector<float> importance(32, 1.0F);
    importance[seed % 32] = 1000;
    const auto error = [&](const GroupFit& fit) {
      return std::pow(static_cast<double>(x[seed % 32]) - decoded(spec, x, fit)[seed % 32], 2);
    };
    plain += error(fit_group(spec, x, 1));
    weighted += error(fit_group(spec, x, 1, importance));
  }
  EXPECT_LT(weighted, plain / 2);
}

TEST(GroupScale, ZeroGroups) {
  const std::vector<float> zeros(32, 0.0F);
  EXPECT_EQ(fit_group(default_spec(Format::kFp4), zeros, 1).scale, 0);
  EXPECT_EQ(fit_group(default_spec(Format::kMxfp4), zeros, 1).scale, std::ldexp(1.0F, -127));
}

TEST(GroupScale, RoundingSaturates) {
  EXPECT_EQ(round_scale(ScaleType::kF16, 1e9F), 65504.0F);
  EXPECT_EQ(round_scale(ScaleType::kE4m3, 1e9F), 448.0F);
  EXPECT_EQ(round_scale(ScaleType::kF32, 1e9F), 1e9F);
  EXPECT_EQ(round_scale(ScaleType::kF16, 1.0F + 1.0F / 4096), 1.0F);
  EXPECT_TRUE(std::isfinite(round_scale(ScaleType::kBf16, std::numeric_limits<float>::max())));
}

TEST(GroupScale, NvFp4ReachesItsLargestWeight) {
  for (const float largest : {1e-3F, 0.7F, 900.0F})
    EXPECT_NEAR(6 * 448 / nvfp4_global_scale(largest), largest, 1e-4F * largest);
}

}  // namespace
}  // namespace metal_marlin
