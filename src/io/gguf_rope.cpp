#include "io/gguf_rope.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "metal_marlin/error.h"

namespace metal_marlin {

std::vector<float> gguf_rope_factors(const Gguf& gguf, std::string_view name, std::int64_t pairs) {
  const auto found = gguf.tensors.find(name);
  if (found == gguf.tensors.end()) return {};
  const GgufTensor& tensor = found->second;
  if (tensor.type != GgufType::kF32 || tensor.shape != Shape{pairs})
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: tensor {}: found {} {}, expected F32 [{}]", gguf.where, name,
                            gguf_type_info(tensor.type).name, shape_text(tensor.shape), pairs));
  std::vector<float> factors(static_cast<std::size_t>(pairs));
  convert_to_f32(DType::kF32, tensor.bytes, 0, factors.size(), factors.data());
  for (const float factor : factors) {
    if (!(factor > 0) || !std::isfinite(factor))
      throw Error(ErrorCode::kCorruptFile,
                  fmt::format("{}: tensor {}: factor {}, expected a positive number", gguf.where, name, factor));
  }
  return factors;
}

double gguf_rotated_part(std::int64_t rotated, std::int64_t head_dim) {
  double part = static_cast<double>(rotated) / static_cast<double>(head_dim);
  if (static_cast<double>(head_dim) * part < static_cast<double>(rotated)) part = std::nextafter(part, 2.0);
  return part;
}

namespace {

Json longrope(double theta, const std::vector<float>& shorter, const std::vector<float>& longer, double attention,
              std::int64_t original) {
  return {{"rope_type", "longrope"},
          {"rope_theta", theta},
          {"factor", 1.0},
          {"short_factor", shorter},
          {"long_factor", longer},
          {"attention_factor", attention},
          {"original_max_position_embeddings", original}};
}

// Llama 3.1 and later store the frequency divisors that its rope rule gave, not
// the rule. The rule's other constants have always been the same, so it follows
// from the last divisor; where the others are not what it gives they stand for themselves.
Json rope_of_factors(const std::vector<float>& factors, double theta) {
  constexpr double kOriginal = 8192;
  const auto original = static_cast<std::int64_t>(kOriginal);
  const double factor = factors.back();
  for (std::size_t i = 0; i < factors.size(); ++i) {
    const double wavelength =
        2 * std::numbers::pi * std::pow(theta, static_cast<double>(i) / static_cast<double>(factors.size()));
    double expected = 1;
    if (wavelength > kOriginal) {
      expected = factor;
    } else if (wavelength >= kOriginal / 4) {
      const double smooth = (kOriginal / wavelength - 1) / 3;
      expected = 1 / ((1 - smooth) / factor + smooth);
    }
    if (std::fabs(factors[i] - expected) > 1e-3 * expected) return longrope(theta, factors, factors, 1, original);
  }
  return {{"rope_type", "llama3"},  {"rope_theta", theta},     {"factor", factor},
          {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", original}};
}

Json yarn(const GgufKeys& keys, double theta, double factor, double temperature, std::int64_t original) {
  if (const double extrapolation = keys.number("rope.scaling.yarn_ext_factor").value_or(1); extrapolation != 1)
    keys.unsupported("rope.scaling.yarn_ext_factor", "1");
  Json rope = {{"rope_type", "yarn"},
               {"rope_theta", theta},
               {"factor", factor},
               {"beta_fast", keys.number("rope.scaling.yarn_beta_fast").value_or(32)},
               {"beta_slow", keys.number("rope.scaling.yarn_beta_slow").value_or(1)},
               {"original_max_position_embeddings", original}};
  const auto scale = [&](double weight) { return factor > 1 ? 0.1 * weight * std::log(factor) + 1 : 1; };
  const double all = keys.number("rope.scaling.yarn_log_multiplier").value_or(0);
  // Converters write what the configuration has for attention_factor, which stands for YaRN's own temperature.
  const double own = keys.number("rope.scaling.yarn_attn_factor").value_or(all == 0 ? scale(1) : scale(1) / scale(all));
  if (temperature != 1 || keys.has("rope.scaling.yarn_attn_factor")) {
    rope["attention_factor"] = temperature * own;
  } else if (all != 0) {
    rope["mscale"] = 1.0;
    rope["mscale_all_dim"] = all;
  }
  return rope;
}

// As llama.cpp has it: a factor without a type is linear, and YaRN's own temperature is multiplied by the file's.
Json whole_rope(const GgufKeys& keys, std::int64_t pairs) {
  const Gguf& gguf = keys.gguf();
  const double theta = keys.positive_or("rope.freq_base", 10000);
  const double linear = keys.number("rope.scale_linear").value_or(1);
  const double factor = keys.number("rope.scaling.factor").value_or(linear == 0 ? 1 : linear);
  const std::string type(gguf.string(keys.name("rope.scaling.type")).value_or("linear"));
  constexpr std::array<std::string_view, 4> kScalings{"none", "linear", "yarn", "longrope"};
  if (std::find(kScalings.begin(), kScalings.end(), type) == kScalings.end())
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: key {} is {}, expected none, linear, yarn or longrope",
                                                     gguf.where, keys.name("rope.scaling.type"), type));
  const std::int64_t original = keys.bounded_or("rope.scaling.original_context_length", {0, kPositionBounds.high},
                                                keys.bounded_or("context_length", kPositionBounds, kGgufContext));
  const double temperature = keys.number("rope.scaling.attn_factor").value_or(1);
  const auto refuse = [&](std::string_view key, const std::string& what) {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: key {}: {}", gguf.where, keys.name(key), what));
  };
  for (const char* const key : {"rope.scaling.yarn_attn_factor", "rope.scaling.yarn_log_multiplier"}) {
    const double neutral = std::string_view(key).ends_with("factor") ? 1 : 0;
    if (type != "yarn" && keys.number(key).value_or(neutral) != neutral)
      refuse(key, fmt::format("{} is not yarn", keys.name("rope.scaling.type")));
  }
  const std::vector<float> shorter = gguf_rope_factors(gguf, "rope_factors_short.weight", pairs);
  const std::vector<float> longer = gguf_rope_factors(gguf, "rope_factors_long.weight", pairs);
  if (shorter.empty() != longer.empty()) refuse("rope.scaling.type", "factors for short or long sequences alone");
  if (!shorter.empty()) return longrope(theta, shorter, longer, temperature, original);
  if (type == "longrope") refuse("rope.scaling.type", "longrope without rope_factors_long and rope_factors_short");
  const std::vector<float> factors = gguf_rope_factors(gguf, "rope_freqs.weight", pairs);
  const bool scaled = type != "none" && factor != 1 && factor != 0;
  if (!factors.empty() && scaled) refuse("rope.scaling.factor", "scaling beside rope_freqs.weight");
  if (!factors.empty()) return rope_of_factors(factors, theta);
  if (type == "yarn") return yarn(keys, theta, factor, temperature, original);
  if (temperature != 1) refuse("rope.scaling.attn_factor", fmt::format("{} without yarn or longrope", temperature));
  if (!scaled) return {{"rope_type", "default"}, {"rope_theta", theta}};
  return {{"rope_type", "linear"}, {"rope_theta", theta}, {"factor", factor}};
}

}  // namespace

Json gguf_rope_parameters(const GgufKeys& keys, std::int64_t rotated, std::int64_t head_dim) {
  Json rope = whole_rope(keys, rotated / 2);
  if (rotated != head_dim) rope["partial_rotary_factor"] = gguf_rotated_part(rotated, head_dim);
  return rope;
}

}  // namespace metal_marlin
