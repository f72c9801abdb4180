#include "models/rope.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// Which of them counts depends on the type; the rest is left alone, as the reference implementation does.
constexpr std::array<std::string_view, 17> kKeys{"rope_theta",
                                                 "rope_type",
                                                 "type",
                                                 "factor",
                                                 "beta_fast",
                                                 "beta_slow",
                                                 "attention_factor",
                                                 "mscale",
                                                 "mscale_all_dim",
                                                 "truncate",
                                                 "low_freq_factor",
                                                 "high_freq_factor",
                                                 "short_factor",
                                                 "long_factor",
                                                 "finetuned",
                                                 "original_max_position_embeddings",
                                                 "partial_rotary_factor"};

struct RopeName {
  std::string_view name;
  RopeType type;
};
constexpr std::array<RopeName, 7> kNames{{{"default", RopeType::kDefault},
                                          {"linear", RopeType::kLinear},
                                          {"dynamic", RopeType::kDynamic},
                                          {"llama3", RopeType::kLlama3},
                                          {"yarn", RopeType::kYarn},
                                          {"longrope", RopeType::kLongrope},
                                          {"proportional", RopeType::kProportional}}};

// The parameters that all of the model's layers have: those of the field, or, where it holds some for each type of
// layer, of the types that there are. Without types, the reference implementation reads none of them.
JsonObject parameters_of(const JsonObject& config, const char* key, const std::vector<std::string>& layer_types) {
  JsonObject json = config.object(key);
  const bool nested = std::any_of(json.json().begin(), json.json().end(), [](const Json& v) { return v.is_object(); });
  if (!nested) return json;
  if (layer_types.empty())
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: it has fields for types of layers, and there are no layer_types", json.where()));
  const std::string& first = layer_types.front();
  for (const std::string& type : layer_types) {
    if (json.object(type.c_str()).json() != json.object(first.c_str()).json())
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: {} and {} differ, expected one rotation for all layers", json.where(), first, type));
  }
  return json.object(first.c_str());
}

std::vector<float> parse_factors(const JsonObject& json, const char* key) {
  const Json& list = json.at(key);
  std::vector<float> out;
  if (list.is_array()) {
    for (const Json& factor : list) {
      if (factor.is_number() && factor.get<double>() > 0) out.push_back(factor.get<float>());
    }
  }
  if (out.empty() || out.size() != list.size()) json.wrong(key, "a list of positive numbers");
  return out;
}

// A number that null, and 0, leave to the default.
double number_but_zero(const JsonObject& json, const char* key, double fallback) {
  const double value = json.number_or(key, fallback);
  return value == 0 ? fallback : value;
}

void parse_type(const JsonObject& json, RopeConfig& rope, double max_positions) {
  const double ratio = max_positions / rope.original_max_positions;
  switch (rope.type) {
    case RopeType::kDefault: return;
    case RopeType::kProportional: rope.factor = json.number_or("factor", 1); break;
    case RopeType::kLinear:
    case RopeType::kDynamic: rope.factor = json.number("factor"); break;
    case RopeType::kLlama3:
      rope.factor = json.number("factor");
      rope.low_freq_factor = json.number("low_freq_factor");
      rope.high_freq_factor = json.number("high_freq_factor");
      break;
    case RopeType::kYarn:
      rope.factor = json.number_or("factor", ratio);
      rope.beta_fast = number_but_zero(json, "beta_fast", 32);
      rope.beta_slow = number_but_zero(json, "beta_slow", 1);
      rope.mscale = json.number_or("mscale", 0);
      rope.truncate = json.boolean_or("truncate", true);
      break;
    case RopeType::kLongrope:
      rope.factor = json.number_or("factor", ratio);
      rope.short_factors = parse_factors(json, "short_factor");
      rope.long_factors = parse_factors(json, "long_factor");
      break;
  }
  rope.mscale_all_dim = json.number_or("mscale_all_dim", 0);
  if (json.has("attention_factor")) rope.attention_factor = json.number("attention_factor");
  if (!(rope.factor > 0)) json.wrong("factor", "a positive number");
}

}  // namespace

// transformers 5 keeps everything in rope_parameters; before, rope_theta stood
// alone and rope_scaling held the rest, its type under "type" or "rope_type".
RopeConfig parse_rope(const JsonObject& config, const std::vector<std::string>& layer_types, double max_positions,
                      const RopeRules& rules) {
  RopeConfig rope;
  rope.max_positions = max_positions;
  rope.original_max_positions = rules.original_max_positions.value_or(max_positions);
  rope.theta = config.number_or("rope_theta", rules.theta);
  // Null is not left out.
  const bool has_part = config.json().contains("partial_rotary_factor");
  rope.rotated_part = config.number_or("partial_rotary_factor", has_part ? 1 : rules.part);
  const bool scaling = config.has("rope_scaling") && !config.at("rope_scaling").empty();
  const char* const key = scaling ? "rope_scaling" : "rope_parameters";
  if (config.has(key) && !config.at(key).empty()) {
    const JsonObject json = parameters_of(config, key, layer_types);
    std::vector<std::string_view> keys(kKeys.begin(), kKeys.end());
    keys.insert(keys.end(), rules.also.begin(), rules.also.end());
    json.only(keys);
    rope.theta = json.number_or("rope_theta", rope.theta);
    rope.rotated_part = json.number_or("partial_rotary_factor", rope.rotated_part);
    std::string name = json.string_or("rope_type", json.string_or("type", "default"));
    if (rules.longrope_names && (name == "su" || name == "yarn")) name = "longrope";
    const auto* const known =
        std::find_if(kNames.begin(), kNames.end(), [&](const RopeName& entry) { return entry.name == name; });
    if (known == kNames.end()) {
      throw Error(
          ErrorCode::kUnsupported,
          fmt::format("{}: field rope_type is '{}', expected default, linear, dynamic, llama3, yarn, longrope or "
                      "proportional",
                      json.where(), name));
    }
    rope.type = known->type;
    // Beside the others it counts before the one among them.
    rope.original_max_positions =
        config.number_or("original_max_position_embeddings",
                         json.number_or("original_max_position_embeddings", rope.original_max_positions));
    if (!(rope.original_max_positions > 1)) json.wrong("original_max_position_embeddings", "a number above 1");
    parse_type(json, rope, max_positions);
  }
  if (!(rope.theta > 0)) config.wrong("rope_theta", "a positive number");
  if (rope.type == RopeType::kDefault && rules.partial == PartialRotation::kIgnored) rope.rotated_part = 1;
  const double part = rope.rotated_part;
  if (part == 1) return rope;
  if (rules.partial != PartialRotation::kDone && rope.type != RopeType::kProportional)
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: field partial_rotary_factor is {}, expected 1, or less with rope_type proportional",
                            config.where(), part));
  if (!(part >= 0 && part < 1)) config.wrong("partial_rotary_factor", "a number from 0 to 1");
  return rope;
}

RopeConfig parse_rope_of(const JsonObject& config, const std::string& layer_type, double max_positions,
                         const RopeRules& rules, const char* theta_key) {
  Json one = Json::object();
  for (const char* const key : {"original_max_position_embeddings", "partial_rotary_factor"}) {
    if (config.has(key)) one[key] = config.at(key);
  }
  const bool full = layer_type == "full_attention";
  if (config.has(theta_key)) one["rope_theta"] = config.at(theta_key);
  if (config.has("rope_parameters")) {
    const JsonObject all = config.object("rope_parameters");
    constexpr std::array<std::string_view, 2> kTypes{"full_attention", "sliding_attention"};
    all.only(kTypes);
    if (all.has(layer_type.c_str())) one["rope_parameters"] = all.object(layer_type.c_str()).json();
  }
  if (full && config.has("rope_scaling")) {
    const JsonObject scaling = config.object("rope_scaling");
    if (scaling.has("type") && !scaling.has("rope_type"))
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: field type is {}, expected rope_type: the reference implementation of this "
                              "architecture does not read the older name",
                              scaling.where(), scaling.at("type").dump()));
    one["rope_parameters"].update(scaling.json());  // of two fields of a name, this one's
  }
  return parse_rope(JsonObject(one, config.where()), {layer_type}, max_positions, rules);
}

double yarn_mscale(const RopeConfig& rope, double weight) {
  return rope.factor <= 1 ? 1.0 : 0.1 * weight * std::log(rope.factor) + 1.0;
}

float rope_attention_scale(const RopeConfig& rope) {
  const bool longrope = rope.type == RopeType::kLongrope;
  if (rope.type != RopeType::kYarn && !longrope) return 1;
  if (rope.attention_factor) return static_cast<float>(*rope.attention_factor);
  if (longrope) {
    if (rope.factor <= 1) return 1;
    return static_cast<float>(std::sqrt(1 + std::log(rope.factor) / std::log(rope.original_max_positions)));
  }
  if (rope.mscale != 0 && rope.mscale_all_dim != 0)
    return static_cast<float>(yarn_mscale(rope, rope.mscale) / yarn_mscale(rope, rope.mscale_all_dim));
  return static_cast<float>(yarn_mscale(rope, 1));
}

namespace {

// Which dimensions YaRN interpolates: none below `low`, all above `high`.
struct YarnRange {
  YarnRange(const RopeConfig& rope, double dim) {
    // The dimension that turns `rotations` times within the original context.
    const auto correction = [&](double rotations) {
      return dim * std::log(rope.original_max_positions / (rotations * 2 * std::numbers::pi)) /
             (2 * std::log(rope.theta));
    };
    low = correction(rope.beta_fast);
    high = correction(rope.beta_slow);
    if (rope.truncate) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, dim - 1);
    if (low == high) high += 0.001;
  }
  [[nodiscard]] double ramp(double i) const { return std::clamp((i - low) / (high - low), 0.0, 1.0); }
  double low;
  double high;
};

double llama3_frequency(const RopeConfig& rope, double base) {
  const double wavelength = 2 * std::numbers::pi / base;
  const double smooth = (rope.original_max_positions / wavelength - rope.low_freq_factor) /
                        (rope.high_freq_factor - rope.low_freq_factor);
  if (wavelength > rope.original_max_positions / rope.low_freq_factor) return base / rope.factor;
  if (wavelength < rope.original_max_positions / rope.high_freq_factor) return base;
  return (1 - smooth) * base / rope.factor + smooth * base;
}

}  // namespace

void rope_frequencies(const RopeConfig& rope, std::int64_t length, std::span<float> out) {
  const auto dim = static_cast<double>(2 * out.size());
  double theta = rope.theta;
  if (rope.type == RopeType::kDynamic && out.size() > 1) {
    const double stretch = std::max(static_cast<double>(length), rope.max_positions) / rope.max_positions;
    theta *= std::pow(rope.factor * stretch - (rope.factor - 1), dim / (dim - 2));
  }
  const YarnRange range(rope, dim);
  const auto rotated = static_cast<std::size_t>(rope.rotated_part * dim / 2);
  const bool is_long = static_cast<double>(length) > rope.original_max_positions;
  const std::vector<float>& factors = is_long ? rope.long_factors : rope.short_factors;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double base = 1.0 / static_cast<double>(std::pow(static_cast<float>(theta),
                                                           static_cast<float>(2 * i) / static_cast<float>(dim)));
    double frequency = base;
    switch (rope.type) {
      case RopeType::kDefault:
      case RopeType::kDynamic: break;
      case RopeType::kLinear: frequency = base / rope.factor; break;
      case RopeType::kProportional: frequency = i < rotated ? base / rope.factor : 0; break;
      case RopeType::kLlama3: frequency = llama3_frequency(rope, base); break;
      case RopeType::kLongrope: frequency = base / static_cast<double>(factors[i]); break;
      case RopeType::kYarn: {
        const double ramp = range.ramp(static_cast<double>(i));
        frequency = base / rope.factor * ramp + base * (1 - ramp);
        break;
      }
    }
    out[i] = static_cast<float>(frequency);
  }
}

}  // namespace metal_marlin
