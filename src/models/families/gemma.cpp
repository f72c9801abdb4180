// Gemma 2 (arXiv 2408.00118) and the text of Gemma 3 (2503.19786): norms that multiply by one more than their weights,
// before and after each part; gates of GELU. The text of Gemma 4, whose layers differ in more.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/parse_number.h"
#include "models/families/family.h"

namespace metal_marlin {
namespace {

void name_norms(ModelConfig& out) {
  out.attention_norms = {"input_layernorm", "post_attention_layernorm"};
  out.feed_forward_norms = {"pre_feedforward_layernorm", "post_feedforward_layernorm"};
}

void describe_gemma(const JsonObject& config, ModelConfig& out) {
  parse_attention_biases(config, false, out);
  out.norm_one_more = true;
  name_norms(out);
  out.embedding_scale = std::sqrt(static_cast<double>(out.hidden));
  out.attention_scale = 1 / std::sqrt(positive_or(config, "query_pre_attn_scalar", 256));
}

void describe_gemma2(const JsonObject& config, ModelConfig& out) {
  describe_gemma(config, out);
  out.attention_soft_cap = cap_or(config, "attn_logit_softcapping", 50);
  out.logits_soft_cap = cap_or(config, "final_logit_softcapping", 30);
  out.windows = windows_of(layer_types_or_period(config, out.layers, 2), window_or(config, 4096));
}

void describe_gemma3(const JsonObject& config, ModelConfig& out) {
  describe_gemma(config, out);
  out.qk_norm = QkNorm::kHeads;
  out.logits_soft_cap = cap_or(config, "final_logit_softcapping", 0);
  const std::int64_t period = config.bounded_or("sliding_window_pattern", kDimensionBounds, 6);
  const std::vector<std::string> types = layer_types_or_period(config, out.layers, period);
  out.windows = windows_of(types, window_or(config, 4096));
  parse_ropes_by_type(config, types, {.theta = 1000000}, {.theta = 10000}, "rope_local_base_freq", out);
}

// The text of Gemma 4: heads and rotations by the type of layer, keys and values that later layers read again or that
// are one, inputs of each layer beside hidden states.
std::vector<HeadShape> parse_gemma4_heads(const JsonObject& config, const std::vector<std::string>& types,
                                          const ModelConfig& out) {
  HeadShape full{config.bounded_or("global_head_dim", kHeadDimBounds, 512), out.kv_heads};
  if (config.boolean_or("attention_k_eq_v", false))
    full.kv_heads = config.bounded_or("num_global_key_value_heads", kHeadBounds, out.kv_heads);
  std::vector<HeadShape> heads;
  for (const std::string& type : types)
    heads.push_back(type == kFullLayer ? full : HeadShape{out.head_dim, out.kv_heads});
  if (!config.has("per_layer_config")) return heads;
  // It has what layers have otherwise than the model.
  heads.assign(types.size(), {out.head_dim, out.kv_heads});
  const JsonObject layers = config.object("per_layer_config");
  for (const auto& [key, value] : layers.json().items()) {
    const auto at = parse_number<std::size_t>(key);
    if (!at || *at >= heads.size())
      layers.wrong(key.c_str(), fmt::format("the number of one of {} layers", types.size()));
    const JsonObject layer = layers.object(key.c_str());
    constexpr std::array<std::string_view, 2> kKnown{"head_dim", "num_key_value_heads"};
    layer.only(kKnown);
    heads[*at] = {layer.bounded_or("head_dim", kHeadDimBounds, out.head_dim),
                  layer.bounded_or("num_key_value_heads", kHeadBounds, out.kv_heads)};
  }
  return heads;
}

// The last layers read the keys and values of the last layer before them that is of their type.
void share_keys(const JsonObject& config, const std::vector<std::string>& types, ModelConfig& out) {
  const std::int64_t shared = config.bounded_or("num_kv_shared_layers", {0, out.layers - 1}, 0);
  const auto first = static_cast<std::size_t>(out.layers - shared);
  const bool wide = config.boolean_or("use_double_wide_mlp", false);
  for (std::size_t i = first; i < types.size(); ++i) {
    std::size_t source = first;
    while (source > 0 && types[source - 1] != types[i]) --source;
    if (source == 0) config.wrong("num_kv_shared_layers", fmt::format("a layer of {} before those", types[i]));
    out.sources[i] = static_cast<int>(source) - 1;
    if (wide) out.intermediates[i] = 2 * out.intermediate;
  }
}

Json with_usual_rotations(const JsonObject& config) {
  Json whole = config.json();
  whole["rope_parameters"] = {
      {kSlidingLayer, {{"rope_type", "default"}, {"rope_theta", 10000.0}}},
      {kFullLayer, {{"rope_type", "proportional"}, {"partial_rotary_factor", 0.25}, {"rope_theta", 1000000.0}}}};
  return whole;
}

// Experts beside the dense part of each layer.
void parse_gemma4_experts(const JsonObject& config, ModelConfig& out) {
  MoeConfig& moe = out.moe;
  moe.experts = config.bounded("num_experts", kExpertBounds);
  moe.top_k = config.bounded("top_k_experts", {1, moe.experts});
  moe.intermediate = config.bounded("moe_intermediate_size", kDimensionBounds);
  moe.normalize = true;
  moe.activation = out.activation;
  moe.module = "experts";
  moe.router = "router.proj";
  moe.router_norm = "router.scale";
  moe.expert_scales = "router.per_expert_scale";
  moe.beside = true;
  moe.dense_norm_after = "post_feedforward_layernorm_1";
  moe.norms = {"pre_feedforward_layernorm_2", "post_feedforward_layernorm_2"};
  out.sparse.assign(out.sparse.size(), true);
}

void describe_gemma4(const JsonObject& config, ModelConfig& out) {
  if (!config.has("rope_parameters"))
    return describe_gemma4(JsonObject(with_usual_rotations(config), config.where()), out);
  parse_attention_biases(config, false, out);
  name_norms(out);
  out.embedding_scale = std::sqrt(static_cast<double>(out.hidden));
  out.attention_scale = 1;
  out.qk_norm = QkNorm::kHeads;
  out.value_norm = true;
  out.layer_factors = true;
  out.logits_soft_cap = cap_or(config, "final_logit_softcapping", 0);
  std::vector<std::string> types = layer_types_or_period(config, out.layers, 6);
  types.back() = kFullLayer;
  out.windows = windows_of(types, window_or(config, 512));
  out.heads_of = parse_gemma4_heads(config, types, out);
  for (const HeadShape& shape : out.heads_of) {
    if (shape.head_dim % 2 != 0 || out.heads % shape.kv_heads != 0)
      config.wrong("num_attention_heads", fmt::format("heads of an even size, {}, and a multiple of {} of keys",
                                                      shape.head_dim, shape.kv_heads));
  }
  share_keys(config, types, out);
  if (config.boolean_or("enable_moe_block", false)) parse_gemma4_experts(config, out);
  if (config.boolean_or("attention_k_eq_v", false)) {
    std::transform(types.begin(), types.end(), out.keys_are_values.begin(),
                   [](const std::string& type) { return type == kFullLayer; });
  }
  out.layer_inputs.width = config.bounded_or("hidden_size_per_layer_input", {0, kMaxDimension}, 256);
  out.layer_inputs.vocab = config.bounded_or("vocab_size_per_layer_input", kDimensionBounds, 262144);
  if (out.layer_inputs.width > 0 && out.layer_inputs.vocab < out.vocab)
    config.wrong("vocab_size_per_layer_input", fmt::format("no less than vocab_size, {}", out.vocab));
  parse_ropes_by_type(config, types, {.theta = 1000000}, {.theta = 10000}, "", out);
}

}  // namespace

Family gemma_family() {
  const std::string_view activation = "hidden_activation";
  static const std::vector<Architecture> kAll{
      {.name = "gemma2",
       .sizes = {256000, 2304, 9216, 26, 8, 4, 256, 8192, 1e-6, true},
       .end_tokens = {1},
       .describe = describe_gemma2,
       // The reference implementation has hidden_act and sliding_window_size under other names.
       .keys = {"hidden_activation", "query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping",
                "sliding_window_size"},
       .by_layer_types = true,
       .activation_key = activation},
      {.name = "gemma3_text",
       .sizes = {262208, 2304, 9216, 26, 8, 4, 256, 131072, 1e-6, true},
       .end_tokens = {1},
       .describe = describe_gemma3,
       .keys = {"hidden_activation", "query_pre_attn_scalar", "final_logit_softcapping", "sliding_window_pattern",
                "_sliding_window_pattern", "rope_local_base_freq"},
       .unread = {{"attn_logit_softcapping", "null"}},
       .by_layer_types = true,
       .activation_key = activation},
      {.name = "gemma3",
       .sizes = {},
       .describe = describe_gemma3,
       .keys = {"text_config", "vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index",
                "image_token_index", "boi_token_id", "eoi_token_id", "image_token_id"},
       .within = "text_config",
       .inner = "gemma3_text"},
      {.name = "gemma4_text",
       .sizes = {262144, 2304, 9216, 30, 8, 4, 256, 131072, 1e-6, true},
       .end_tokens = {1},
       .describe = describe_gemma4,
       .keys = {"hidden_activation", "final_logit_softcapping", "global_head_dim", "num_global_key_value_heads",
                "per_layer_config", "attention_k_eq_v", "num_kv_shared_layers", "use_double_wide_mlp",
                "enable_moe_block", "top_k_experts", "hidden_size_per_layer_input", "vocab_size_per_layer_input"},
       .neutral = {{"use_bidirectional_attention", "\"vision\""}},  // of images alone
       .by_layer_types = true,
       .activation_key = activation},
      {.name = "gemma4",
       .sizes = {},
       .describe = describe_gemma4,
       .keys = {"text_config", "vision_config", "audio_config", "boi_token_id", "eoi_token_id", "image_token_id",
                "video_token_id", "boa_token_id", "eoa_token_id", "eoa_token_index", "audio_token_id"},
       .within = "text_config",
       .inner = "gemma4_text"}};
  return kAll;
}

}  // namespace metal_marlin
