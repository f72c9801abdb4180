// Llama (arXiv 2302.13971) and SmolLM3, some of whose layers have no rotation.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/families/family.h"

namespace metal_marlin {
namespace {

void describe_llama(const JsonObject& config, ModelConfig& out) {
  parse_attention_biases(config, false, out);
  out.mlp_bias = config.boolean_or("mlp_bias", false);
}

// no_rope_layers has a 1 for each layer that has a rotation, whatever it is called.
void describe_smollm3(const JsonObject& config, ModelConfig& out) {
  describe_llama(config, out);
  if (config.has("no_rope_layers")) {
    const Json& list = config.at("no_rope_layers");
    if (!list.is_array() || list.size() != out.rotations.size())
      config.wrong("no_rope_layers", fmt::format("{} entries", out.layers));
    for (std::size_t i = 0; i < out.rotations.size(); ++i) {
      if (list[i] != 0 && list[i] != 1) config.wrong("no_rope_layers", "entries of 0 and 1");
      out.rotations[i] = list[i] == 1 ? 0 : kNoRotation;
    }
  } else {
    const std::int64_t interval = config.bounded_or("no_rope_layer_interval", kDimensionBounds, 4);
    for (std::int64_t i = interval - 1; i < out.layers; i += interval)
      out.rotations[static_cast<std::size_t>(i)] = kNoRotation;
  }
  std::vector<std::string> types = listed_layer_types(config, out.layers);
  const std::int64_t window = window_or(config, 0);
  // A list counts whatever use_sliding_window says.
  if (window == 0 && std::find(types.begin(), types.end(), kSlidingLayer) != types.end())
    config.wrong("sliding_window", "a window, as layer_types has sliding_attention");
  const bool used = window > 0 && config.boolean_or("use_sliding_window", false);
  for (std::size_t i = types.size(); i < out.rotations.size(); ++i)
    types.emplace_back(used && out.rotations[i] == kNoRotation ? kSlidingLayer : kFullLayer);
  out.windows = windows_of(types, window);
  out.ropes = {parse_rope(config, types, static_cast<double>(out.max_positions), {.theta = 2000000})};
}

}  // namespace

Family llama_family() {
  static const std::vector<Architecture> kAll{
      {.name = "llama",
       .sizes = {32000, 4096, 11008, 32, 32, std::nullopt, std::nullopt, 2048, 1e-6},
       .end_tokens = {2},
       .describe = describe_llama},
      {.name = "smollm3",
       .sizes = {128256, 2048, 11008, 36, 16, 4, std::nullopt, 32768, 1e-6, true},
       .end_tokens = {128001},
       .describe = describe_smollm3,
       .keys = {"no_rope_layers", "no_rope_layer_interval"},
       .by_layer_types = true}};
  return kAll;
}

}  // namespace metal_marlin
