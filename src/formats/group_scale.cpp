#include "formats/group_scale.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "formats/codec.h"
#include "formats/number_format.h"
#include "formats/small_floats.h"

namespace metal_marlin {
namespace {

// Rounded elements c of x / scale, and the sums that a least-squares scale needs.
struct Trial {
  double squared_error = 0;
  double xc = 0;  // sum x * c
  double cc = 0;  // sum c * c
};

class GroupSearch {
 public:
  GroupSearch(const FormatSpec& spec, std::span<const float> x, float global_scale, std::span<const float> importance)
      : spec_(spec),
        number_(number_format(spec.format)),
        x_(x),
        global_(global_scale),
        scaled_(x.size()),
        rounded_(x.size()),
        weight_(x.size(), 1.0F) {
    std::copy(importance.begin(), importance.end(), weight_.begin());
  }

  GroupFit run() {
    const auto [low, high] = std::minmax_element(x_.begin(), x_.end());
    low_ = *low;
    high_ = *high;
    if (low_ == 0 && high_ == 0) return zero_group();
    if (spec_.zero != ZeroKind::kNone) return search_asymmetric();
    return search_symmetric();
  }

 private:
  [[nodiscard]] GroupFit zero_group() const {
    GroupFit fit;
    if (spec_.scale_type == ScaleType::kE8m0) fit.scale = 0x1p-127F;
    return fit;
  }

  Trial evaluate(float scale) {
    const float factor = effective_scale(spec_, scale, global_);
    const float inverse = factor == 0 ? 0.0F : 1.0F / factor;
    const std::size_t n = x_.size();
    for (std::size_t i = 0; i < n; ++i) scaled_[i] = std::clamp(x_[i] * inverse, -1e6F, 1e6F);
    round_to_elements(spec_.format, scaled_, rounded_.data());
    float error = 0;
    float xc = 0;
    float cc = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const float difference = x_[i] - factor * rounded_[i];
      error += weight_[i] * difference * difference;
      xc += weight_[i] * x_[i] * rounded_[i];
      cc += weight_[i] * rounded_[i] * rounded_[i];
    }
    return {error, xc, cc};
  }

  // Tries a stored scale; keeps it if it is better. Returns the least-squares
  // scale for the codes that it led to.
  float attempt(float scale, GroupFit& best) {
    const float stored = round_scale(spec_.scale_type, scale);
    if (!std::isfinite(stored) || stored == 0) return 0;
    const Trial trial = evaluate(stored);
    if (trial.squared_error < best.squared_error) {
      best.squared_error = trial.squared_error;
      best.scale = stored;
    }
    return trial.cc == 0 ? 0 : static_cast<float>(trial.xc / trial.cc) * global_;
  }

  GroupFit search_symmetric() {
    GroupFit best = zero_group();
    best.squared_error = std::numeric_limits<double>::max();
    const float largest = std::max(-low_, high_);
    if (spec_.scale_type == ScaleType::kE8m0) return search_exponent(largest, best);
    for (const float base : base_scales(largest)) {
      if (spec_.scale_type == ScaleType::kE4m3) {
        search_e4m3(base * global_, best);
        continue;
      }
      float at_best = 0;
      for (const float factor : factors()) {
        const double before = best.squared_error;
        const float refined = attempt(base * factor, best);
        if (best.squared_error < before) at_best = refined;
        if (best.squared_error == 0) return best;
      }
      for (int i = 0; i < 2 && at_best != 0; ++i) at_best = attempt(at_best, best);
    }
    if (best.squared_error == std::numeric_limits<double>::max()) {  // every scale rounds to zero
      best.scale = 0;
      best.squared_error = evaluate(0).squared_error;
    }
    return best;
  }

  // What to multiply a base scale by. Coarse grids gain by clipping the largest
  // weights; FP8 has range to spare, and an octave of scales shifts its grid.
  [[nodiscard]] std::span<const float> factors() const {
    static constexpr std::array<float, 15> kCoarse{1.08F, 1.04F, 1.0F,  0.96F, 0.92F, 0.88F, 0.84F, 0.8F,
                                                   0.76F, 0.72F, 0.68F, 0.64F, 0.6F,  0.56F, 0.52F};
    static constexpr std::array<float, 3> kFine{1.0F, 0.99F, 0.98F};
    static constexpr std::array<float, 12> kFloat8{1.0F,  1.06F, 1.12F, 1.19F, 1.26F, 1.33F,
                                                   1.41F, 1.5F,  1.59F, 1.68F, 1.78F, 1.89F};
    if (number_.kind == ElementKind::kE4m3 || number_.kind == ElementKind::kE5m2) return kFloat8;
    if (format_info(spec_.format).bits >= 8) return kFine;
    return kCoarse;
  }

  // Scales that map the largest magnitude to the end of the element range. For
  // two's-complement ranges the longer end is the negative one, so both signs.
  [[nodiscard]] std::vector<float> base_scales(float largest) const {
    std::vector<float> scales;
    for (const float end : number_.scale_ends) scales.push_back(largest / end);
    if (!scales.empty()) return scales;
    const float end = -number_.low();
    return {-low_ >= high_ ? largest / end : -largest / end, largest / (end - 1), -largest / (end - 1)};
  }

  // The OCP rule's exponent, floor(log2(max)) - 2, and its neighbours.
  GroupFit search_exponent(float largest, GroupFit best) {
    const int exponent = std::ilogb(largest) - 2;
    for (const int candidate : {exponent, exponent + 1, exponent - 1}) {
      attempt(std::ldexp(1.0F, std::clamp(candidate, -127, 127)), best);
    }
    return best;
  }

  void search_e4m3(float base, GroupFit& best) {
    const int middle = f32_to_e4m3(base);
    for (int code = std::max(middle - 5, 1); code <= std::min(middle + 2, 0x7E); ++code) {
      attempt(e4m3_to_f32(static_cast<std::uint8_t>(code)), best);
    }
  }

  void attempt_asymmetric(float scale, float offset, GroupFit& best) {
    for (int iteration = 0; iteration < 3; ++iteration) {
      GroupFit fit;
      fit.scale = round_scale(spec_.scale_type, scale);
      if (fit.scale == 0 || !std::isfinite(fit.scale)) return;
      const auto top = static_cast<float>((1 << format_info(spec_.format).bits) - 1);
      if (spec_.zero == ZeroKind::kInteger) {
        fit.zero = static_cast<std::uint8_t>(std::clamp(std::nearbyint(-offset / fit.scale), 0.0F, top));
      } else {
        fit.minimum = round_scale(spec_.scale_type, offset);
      }
      const float shift = spec_.zero == ZeroKind::kInteger ? -fit.scale * static_cast<float>(fit.zero) : fit.minimum;
      const std::size_t n = x_.size();
      const float inverse = 1.0F / fit.scale;
      for (std::size_t i = 0; i < n; ++i) scaled_[i] = std::clamp((x_[i] - shift) * inverse, -1e6F, 1e6F);
      round_to_elements(spec_.format, scaled_, rounded_.data());
      double error = 0;
      double count = 0;
      double sums[4] = {0, 0, 0, 0};  // c, c*c, x, x*c
      for (std::size_t i = 0; i < n; ++i) {
        const double difference = x_[i] - decode(fit, rounded_[i]);
        const double weight = weight_[i];
        count += weight;
        error += weight * difference * difference;
        sums[0] += weight * rounded_[i];
        sums[1] += weight * rounded_[i] * rounded_[i];
        sums[2] += weight * x_[i];
        sums[3] += weight * x_[i] * rounded_[i];
      }
      if (error < best.squared_error) {
        best = fit;
        best.squared_error = error;
      }
      const double determinant = count * sums[1] - sums[0] * sums[0];
      if (error == 0 || determinant <= 0) return;
      scale = static_cast<float>((count * sums[3] - sums[0] * sums[2]) / determinant);
      offset = static_cast<float>((sums[2] - static_cast<double>(scale) * sums[0]) / count);
    }
  }

  [[nodiscard]] float decode(const GroupFit& fit, float element) const {
    if (spec_.zero == ZeroKind::kInteger) return fit.scale * (element - static_cast<float>(fit.zero));
    return fit.scale * element + fit.minimum;
  }

  GroupFit search_asymmetric() {
    GroupFit best;
    best.squared_error = std::numeric_limits<double>::max();
    const auto top = static_cast<float>((1 << format_info(spec_.format).bits) - 1);
    const bool integer = spec_.zero == ZeroKind::kInteger;
    const float low = integer ? std::min(low_, 0.0F) : low_;
    const float high = integer ? std::max(high_, 0.0F) : high_;
    if (low == high) return constant_group(low);
    for (int i = 0; i <= 8 && best.squared_error != 0; ++i) {
      const float shrink = 0.02F * static_cast<float>(i) * (high - low);
      attempt_asymmetric((high - low - shrink) / top, low + shrink / 2, best);
    }
    if (best.squared_error == std::numeric_limits<double>::max()) return constant_group((low + high) / 2);
    return best;
  }

  // Every weight is (nearly) the same: the minimum alone holds it.
  [[nodiscard]] GroupFit constant_group(float value) const {
    GroupFit fit;
    if (spec_.zero == ZeroKind::kMinimum) fit.minimum = round_scale(spec_.scale_type, value);
    for (std::size_t i = 0; i < x_.size(); ++i)
      fit.squared_error += weight_[i] * (x_[i] - fit.minimum) * (x_[i] - fit.minimum);
    return fit;
  }

  const FormatSpec& spec_;
  const NumberFormat& number_;
  std::span<const float> x_;
  float global_;
  float low_ = 0;
  float high_ = 0;
  std::vector<float> scaled_;
  std::vector<float> rounded_;
  std::vector<float> weight_;  // on squared errors
};

}  // namespace

float round_scale(ScaleType type, float scale) {
  switch (type) {
    case ScaleType::kF16: return f16_to_f32(f32_to_f16(std::clamp(scale, -65504.0F, 65504.0F)));
    case ScaleType::kBf16: {
      const float rounded = bf16_to_f32(f32_to_bf16(scale));
      return std::isinf(rounded) ? std::copysign(bf16_to_f32(0x7F7F), scale) : rounded;
    }
    case ScaleType::kE4m3: return e4m3_to_f32(f32_to_e4m3(scale));
    default: return scale;
  }
}

float nvfp4_global_scale(float largest) {
  if (largest == 0) return 1;
  return std::clamp(6.0F * 448.0F / largest, std::numeric_limits<float>::min(), 0x1p120F);
}

float effective_scale(const FormatSpec& spec, float stored_scale, float global_scale) {
  return spec.format == Format::kNvfp4 ? stored_scale / global_scale : stored_scale;
}

GroupFit fit_group(const FormatSpec& spec, std::span<const float> x, float global_scale,
                   std::span<const float> importance) {
  return GroupSearch(spec, x, global_scale, importance).run();
}

void encode_group(const FormatSpec& spec, std::span<const float> x, const GroupFit& fit, float global_scale,
                  std::uint8_t* codes) {
  const float factor = effective_scale(spec, fit.scale, global_scale);
  const float inverse = factor == 0 ? 0.0F : 1.0F / factor;
  const float shift = spec.zero == ZeroKind::kInteger ? -fit.scale * static_cast<float>(fit.zero) : fit.minimum;
  for (std::size_t i = 0; i < x.size(); ++i) {
    codes[i] = inverse == 0 ? (spec.zero == ZeroKind::kNone ? zero_code(spec.format) : fit.zero)
                            : encode(spec.format, (x[i] - shift) * inverse);
    if (spec.format == Format::kInt8) codes[i] = std::max<std::uint8_t>(codes[i], 1);
  }
}

}  // namespace metal_marlin
