// Gemma 2 (arXiv 2408.00118) and the text of Gemma 3 (2503.19786): norms that multiply by one more than their weights,
// before and after each part; gates of GELU.
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/families/family.h"

namespace metal_marlin {
namespace {

void describe_gemma(const JsonObject& config, ModelConfig& out) {
  parse_attention_biases(config, false, out);
  out.norm_one_more = true;
  out.attention_norms = {"input_layernorm", "post_attention_layernorm"};
  out.feed_forward_norms = {"pre_feedforward_layernorm", "post_feedforward_layernorm"};
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
       .inner = "gemma3_text"}};
  return kAll;
}

}  // namespace metal_marlin
