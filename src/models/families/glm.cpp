// GLM-4.7-Flash: latent attention (arXiv 2405.04434) and experts chosen by sigmoids and a bias (2412.19437); and the
// dense GLM-4, with norms before and after each part.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/families/experts.h"
#include "models/families/family.h"

namespace metal_marlin {
namespace {

constexpr FieldNames kRopeDimNames{"qk_rope_head_dim", "head_dim"};
constexpr FieldNames kGlmExpertNames{"n_routed_experts", "num_local_experts"};

// Where a field is left out it is what the reference implementation's configuration of the architecture has, here and
// below.
LatentConfig parse_latent(const JsonObject& config) {
  LatentConfig latent;
  const bool whole = config.json().contains("q_lora_rank") && !config.has("q_lora_rank");
  latent.q_rank = whole ? 0 : config.bounded_or("q_lora_rank", kDimensionBounds, 768);
  latent.rank = config.bounded_or("kv_lora_rank", kDimensionBounds, 512);
  latent.nope_dim = config.bounded_or("qk_nope_head_dim", {1, kHeadDimBounds.high}, 192);
  latent.rope_dim = config.bounded_or(counting_name(config, kRopeDimNames), kHeadDimBounds, 64);
  latent.value_dim = config.bounded_or("v_head_dim", {1, kHeadDimBounds.high}, 256);
  latent.interleaved = config.boolean_or("rope_interleave", true);
  if (latent.rope_dim % 2 != 0) config.wrong("qk_rope_head_dim", "an even number");
  return latent;
}

MoeConfig parse_glm_moe(const JsonObject& config) {
  MoeConfig moe;
  parse_experts(config, counting_name(config, kGlmExpertNames), {.experts = 64, .top_k = 4, .intermediate = 1536}, moe);
  moe.shared_intermediate =
      config.bounded_or("n_shared_experts", {0, kExpertBounds.high}, 1) * moe.intermediate;  // bounded by check_experts
  moe.groups = config.bounded_or("n_group", {1, moe.experts}, 1);
  moe.top_groups = config.bounded_or("topk_group", {1, moe.groups}, 1);
  if (moe.experts % moe.groups != 0)
    config.wrong("n_group", fmt::format("a divisor of n_routed_experts {}", moe.experts));
  if (moe.groups > 1 && moe.experts / moe.groups < 2) config.wrong("n_group", "groups of at least 2 experts");
  if (moe.top_k > moe.experts / moe.groups * moe.top_groups) {
    config.wrong("num_experts_per_tok", "no more experts than topk_group groups have");
  }
  moe.scoring = RouterScoring::kSigmoid;
  moe.router_bias = true;
  moe.normalize = config.boolean_or("norm_topk_prob", true);
  moe.scale = config.number_or("routed_scaling_factor", 1.8);
  return moe;
}

// Which layers have experts: those of a list or, without one, all but the first.
std::vector<bool> parse_glm_sparse(const JsonObject& config, std::int64_t layers) {
  std::vector<bool> sparse(static_cast<std::size_t>(layers), true);
  if (!config.has("mlp_layer_types")) {
    sparse.front() = false;
    return sparse;
  }
  const Json& types = config.at("mlp_layer_types");
  if (!types.is_array() || types.size() != sparse.size())
    config.wrong("mlp_layer_types", fmt::format("{} entries", layers));
  for (std::size_t i = 0; i < sparse.size(); ++i) {
    if (types[i] != "dense" && types[i] != "sparse") config.wrong("mlp_layer_types", "dense or sparse entries");
    sparse[i] = types[i] == "sparse";
  }
  return sparse;
}

void describe_glm4_moe_lite(const JsonObject& config, ModelConfig& out) {
  parse_attention_biases(config, false, out);
  out.latent = parse_latent(config);
  out.head_dim = out.latent.nope_dim + out.latent.rope_dim;
  out.ropes = {parse_rope(config, listed_layer_types(config, out.layers), static_cast<double>(out.max_positions),
                          {.partial = PartialRotation::kFails})};
  out.moe = parse_glm_moe(config);
  out.sparse = parse_glm_sparse(config, out.layers);
  if (config.has("num_nextn_predict_layers"))
    out.mtp_layers = config.bounded("num_nextn_predict_layers", 0, kLayerBounds.high);
}

void describe_glm4(const JsonObject& config, ModelConfig& out) {
  out.qkv_bias = config.boolean_or("attention_bias", true);
  out.attention_norms = {"input_layernorm", "post_self_attn_layernorm"};
  out.feed_forward_norms = {"post_attention_layernorm", "post_mlp_layernorm"};
  out.interleaved = true;
  out.ropes = {parse_rope(config, listed_layer_types(config, out.layers), static_cast<double>(out.max_positions),
                          {.part = 0.5, .partial = PartialRotation::kDone})};
}

}  // namespace

Family glm_family() {
  static const std::vector<Architecture> kAll{
      {.name = "glm4_moe_lite",
       .sizes = {154880, 2048, 10240, 47, 20, std::nullopt, std::nullopt, 202752, 1e-5},
       .end_tokens = {1},
       .describe = describe_glm4_moe_lite,
       .keys = {"qk_head_dim"},  // which follows from others
       .other_names = {kRopeDimNames, kGlmExpertNames},
       .unread = {{"topk_method", R"("noaux_tc")"}, {"scoring_func", R"("sigmoid")"}, {"first_k_dense_replace", "1"}}},
      {.name = "glm4",
       .sizes = {151552, 4096, 13696, 40, 32, 2, 128, 131072, 1.5625e-07},
       .end_tokens = {151329, 151336, 151338},
       .describe = describe_glm4}};
  return kAll;
}

}  // namespace metal_marlin
