#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "metal_marlin/error.h"
#include "models/families/family.h"

namespace metal_marlin {

std::vector<const Architecture*> architectures() {
  std::vector<const Architecture*> all;
  for (const auto family :
       {llama_family, qwen_family, deepseek_family, glm_family, mistral_family, phi_family, gemma_family, olmo_family,
        granite_family, exaone_family, seed_family, cohere_family, minimax_family, gpt_oss_family}) {
    for (const Architecture& architecture : family()) all.push_back(&architecture);
  }
  return all;
}

const Architecture* find_architecture(std::string_view name) {
  const std::vector<const Architecture*> all = architectures();
  const auto found = std::find_if(all.begin(), all.end(), [&](const Architecture* a) { return a->name == name; });
  return found == all.end() ? nullptr : *found;
}

void require(const JsonObject& config, const char* key, bool supported, const std::string& expected) {
  if (!supported) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: field {} is {}, expected {}", config.where(), key, config.at(key).dump(), expected));
  }
}

const char* counting_name(const JsonObject& config, const FieldNames& names) {
  return config.has(names.other) ? names.other : names.field;
}

std::vector<std::string> listed_layer_types(const JsonObject& config, std::int64_t layers) {
  if (!config.has("layer_types")) return {};
  const Json& types = config.at("layer_types");
  if (!types.is_array() || types.size() != static_cast<std::size_t>(layers))
    config.wrong("layer_types", fmt::format("{} entries", layers));
  std::vector<std::string> out;
  for (const Json& type : types) {
    if (type != kFullLayer && type != kSlidingLayer)
      config.wrong("layer_types", "full_attention or sliding_attention entries");
    out.push_back(type.get<std::string>());
  }
  return out;
}

std::vector<std::string> layer_types_or_period(const JsonObject& config, std::int64_t layers, std::int64_t period) {
  std::vector<std::string> types = listed_layer_types(config, layers);
  if (!types.empty()) return types;
  for (std::int64_t i = 0; i < layers; ++i)
    types.emplace_back(period == 0 || (i + 1) % period == 0 ? kFullLayer : kSlidingLayer);
  return types;
}

std::vector<std::int64_t> windows_of(const std::vector<std::string>& types, std::int64_t window) {
  std::vector<std::int64_t> windows;
  for (const std::string& type : types) windows.push_back(type == kSlidingLayer ? window : 0);
  return windows;
}

std::int64_t window_or(const JsonObject& config, std::int64_t usual) {
  if (!config.json().contains("sliding_window")) return usual;
  return config.bounded_or("sliding_window", kDimensionBounds, 0);
}

void parse_ropes_by_type(const JsonObject& config, const std::vector<std::string>& types, const RopeRules& full,
                         const RopeRules& sliding, const char* sliding_theta_key, ModelConfig& out) {
  const auto positions = static_cast<double>(out.max_positions);
  out.ropes = {parse_rope_of(config, std::string(kFullLayer), positions, full, "rope_theta"),
               parse_rope_of(config, std::string(kSlidingLayer), positions, sliding, sliding_theta_key)};
  std::transform(types.begin(), types.end(), out.rotations.begin(),
                 [](const std::string& type) { return type == kSlidingLayer ? 1 : 0; });
}

void parse_attention_biases(const JsonObject& config, bool usual, ModelConfig& out) {
  out.qkv_bias = out.output_bias = config.boolean_or("attention_bias", usual);
}

double positive_or(const JsonObject& config, const char* key, double usual) {
  const double value = config.number_or(key, usual);
  if (!(value > 0)) config.wrong(key, "a number above 0");
  return value;
}

double cap_or(const JsonObject& config, const char* key, double usual) {
  if (!config.json().contains(key)) return usual;
  return config.has(key) ? positive_or(config, key, usual) : 0;
}

}  // namespace metal_marlin
