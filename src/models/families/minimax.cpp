// MiniMax M2: attention in all layers, norms of queries and keys as a whole, a rotation of a part of each head, experts
// chosen by sigmoids and a bias (arXiv 2412.19437).
#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/families/experts.h"
#include "models/families/family.h"

namespace metal_marlin {
namespace {

constexpr FieldNames kMinimaxExpertNames{"num_local_experts", "num_experts"};

// Its files have the elements of a head that are rotated where others have their part of it, which counts before that.
RopeConfig parse_minimax_rope(const JsonObject& config, const ModelConfig& out) {
  RopeRules rules{.theta = 5000000, .partial = PartialRotation::kDone};
  if (config.has("rotary_dim"))
    rules.part = static_cast<double>(config.bounded("rotary_dim", 2, out.head_dim)) / static_cast<double>(out.head_dim);
  return parse_rope(config, listed_layer_types(config, out.layers), static_cast<double>(out.max_positions), rules);
}

// The models before it had layers of linear attention, 0 here.
void require_attention(const JsonObject& config) {
  if (!config.has("attn_type_list")) return;
  const Json& types = config.at("attn_type_list");
  require(config, "attn_type_list",
          types.is_array() && std::all_of(types.begin(), types.end(), [](const Json& type) { return type == 1; }),
          "a list of 1, attention, alone");
}

// Its experts are as wide as intermediate_size says.
void describe_minimax_m2(const JsonObject& config, ModelConfig& out) {
  require_attention(config);
  out.qk_norm = QkNorm::kProjections;
  out.ropes = {parse_minimax_rope(config, out)};
  parse_expert_counts(config, counting_name(config, kMinimaxExpertNames), {.experts = 256, .top_k = 8}, out.moe);
  out.moe.intermediate = out.intermediate;
  out.moe.scoring = RouterScoring::kSigmoid;
  out.moe.router_bias = true;
  out.moe.normalize = true;
  out.sparse.assign(out.sparse.size(), true);
}

}  // namespace

Family minimax_family() {
  static const std::vector<Architecture> kAll{
      {.name = "minimax_m2",
       .sizes = {200064, 3072, 1536, 62, 48, 8, 128, 196608, 1e-6},
       .end_tokens = {200020},
       .describe = describe_minimax_m2,
       // Of layers for the next tokens, which its files do not hold, and of what the models before it had.
       .keys = {"rotary_dim", "attn_type_list", "use_mtp", "num_mtp_modules", "mtp_transformer_layers",
                "mlp_intermediate_size", "shared_moe_mode"},
       .neutral = {{"use_qk_norm", "true"},
                   {"qk_norm_type", R"("per_layer")"},
                   {"use_routing_bias", "true"},
                   {"scoring_func", R"("sigmoid")"},
                   {"shared_intermediate_size", "0"},
                   {"layernorm_full_attention_beta", "1.0"},
                   {"layernorm_linear_attention_beta", "1.0"},
                   {"layernorm_mlp_beta", "1.0"}},
       .other_names = {kMinimaxExpertNames},
       .unread = {{"sliding_window", "null"}, {"norm_topk_prob", "true"}}}};
  return kAll;
}

}  // namespace metal_marlin
