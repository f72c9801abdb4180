// Cohere's Command R7B and A: attention and feed-forward part read the same norm, of mean and deviation; only layers
// with windows have rotations.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/families/family.h"

namespace metal_marlin {
namespace {

void describe_cohere2(const JsonObject& config, ModelConfig& out) {
  parse_attention_biases(config, false, out);
  require(config, "head_dim", !config.has("head_dim") || out.head_dim == out.hidden / out.heads,
          "hidden_size / num_attention_heads");
  out.norm = NormKind::kLayer;
  out.parallel = true;
  out.feed_forward_norms = {};
  out.interleaved = true;
  out.logits_scale = config.number_or("logit_scale", 0.0625);
  const std::int64_t period = config.bounded_or("sliding_window_pattern", kDimensionBounds, 4);
  const std::vector<std::string> types = layer_types_or_period(config, out.layers, period);
  out.windows = windows_of(types, window_or(config, 4096));
  std::transform(types.begin(), types.end(), out.rotations.begin(),
                 [](const std::string& type) { return type == kSlidingLayer ? 0 : kNoRotation; });
}

}  // namespace

Family cohere_family() {
  static const std::vector<Architecture> kAll{
      {.name = "cohere2",
       .sizes = {256000, 8192, 22528, 40, 64, std::nullopt, std::nullopt, 8192, 1e-5, true},
       .end_tokens = {255001},
       .describe = describe_cohere2,
       .keys = {"layer_norm_eps", "logit_scale", "sliding_window_pattern"},
       .neutral = {{"layer_switch", "4"},
                   {"order_of_interleaved_layers", "\"local_attn_first\""},
                   {"position_embedding_type", "\"rope_gptj\""},
                   {"rotary_pct", "1.0"},
                   {"use_embedding_sharing", "true"},
                   {"use_gated_activation", "true"},
                   {"use_parallel_block", "true"},
                   {"use_parallel_embedding", "false"}},
       .by_layer_types = true,
       .eps_key = "layer_norm_eps"}};
  return kAll;
}

}  // namespace metal_marlin
