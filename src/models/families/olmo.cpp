// OLMo 2 (arXiv 2501.00656) and OLMo 3, whose norms follow the parts, and OLMoE (2409.02060), which has experts, and
// norms before the parts; queries and keys are normed as a whole.

#include "models/families/experts.h"
#include "models/families/family.h"

namespace metal_marlin {
namespace {

void describe_olmo2(const JsonObject& config, ModelConfig& out) {
  parse_attention_biases(config, false, out);
  out.qk_norm = QkNorm::kProjections;
  out.attention_norms = {"", "post_attention_layernorm"};
  out.feed_forward_norms = {"", "post_feedforward_layernorm"};
}

void describe_olmo3(const JsonObject& config, ModelConfig& out) {
  describe_olmo2(config, out);
  const std::vector<std::string> types = layer_types_or_period(config, out.layers, 4);
  out.windows = windows_of(types, window_or(config, 4096));
  const RopeRules rules{.theta = 500000};
  parse_ropes_by_type(config, types, rules, rules, "", out);  // rope_theta is of full attention alone
}

constexpr FieldNames kOlmoeExpertNames{"num_experts", "num_local_experts"};

// Its experts are as wide as dense layers would be.
void describe_olmoe(const JsonObject& config, ModelConfig& out) {
  parse_attention_biases(config, false, out);
  out.qk_norm = QkNorm::kProjections;
  parse_expert_counts(config, counting_name(config, kOlmoeExpertNames), {.experts = 64, .top_k = 8}, out.moe);
  out.moe.intermediate = out.intermediate;
  out.moe.normalize = config.boolean_or("norm_topk_prob", false);
  out.sparse.assign(out.sparse.size(), true);
}

}  // namespace

Family olmo_family() {
  static const std::vector<Architecture> kAll{
      {.name = "olmo2",
       .sizes = {50304, 4096, 11008, 32, 32, std::nullopt, std::nullopt, 2048, 1e-5},
       .end_tokens = {50279},
       .describe = describe_olmo2},
      {.name = "olmo3",
       .sizes = {50304, 4096, 11008, 32, 32, std::nullopt, std::nullopt, 2048, 1e-5},
       .end_tokens = {50279},
       .describe = describe_olmo3,
       .by_layer_types = true},
      {.name = "olmoe",
       .sizes = {50304, 2048, 2048, 16, 16, std::nullopt, std::nullopt, 4096, 1e-5},
       .end_tokens = {50279},
       .describe = describe_olmoe,
       .other_names = {kOlmoeExpertNames},
       .unread = {{"sliding_window", "null"}}}};
  return kAll;
}

}  // namespace metal_marlin
