// GLM-4.5 to 4.7, with experts chosen by sigmoids and a bias (arXiv 2412.19437); GLM-4.7-Flash, which has latent
// attention (2405.04434) too; and the dense GLM-4, with norms before and after each part.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/families/deepseek.h"
#include "models/families/family.h"

namespace metal_marlin {
namespace {

constexpr FieldNames kRopeDimNames{"qk_rope_head_dim", "head_dim"};

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
  out.latent = parse_latent(config, counting_name(config, kRopeDimNames),
                            {.q_rank = 768, .rank = 512, .nope_dim = 192, .rope_dim = 64, .value_dim = 256});
  out.head_dim = out.latent.nope_dim + out.latent.rope_dim;
  out.ropes = {parse_rope(config, listed_layer_types(config, out.layers), static_cast<double>(out.max_positions),
                          {.partial = PartialRotation::kFails})};
  out.moe =
      parse_sigmoid_experts(config, {.experts = 64, .top_k = 4, .intermediate = 1536, .normalize = true, .scale = 1.8});
  out.sparse = parse_glm_sparse(config, out.layers);
  if (config.has("num_nextn_predict_layers"))
    out.mtp_layers = config.bounded("num_nextn_predict_layers", 0, kLayerBounds.high);
}

// The output has no bias, whatever attention_bias says.
void describe_glm4_moe(const JsonObject& config, ModelConfig& out) {
  out.qkv_bias = config.boolean_or("attention_bias", false);
  if (config.boolean_or("use_qk_norm", false)) out.qk_norm = QkNorm::kHeads;
  out.ropes = {parse_rope(config, listed_layer_types(config, out.layers), static_cast<double>(out.max_positions),
                          {.part = 0.5, .partial = PartialRotation::kDone})};
  out.moe = parse_sigmoid_experts(config, {.experts = 128, .top_k = 8, .intermediate = 1408, .normalize = true});
  parse_dense_beginning(config, 1, out);
  parse_prediction_layers(config, out);
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
       .other_names = {kRopeDimNames, kRoutedExpertNames},
       .unread = {{"topk_method", R"("noaux_tc")"},
                  {"scoring_func", R"("sigmoid")"},
                  {"first_k_dense_replace", "1"},
                  {"moe_layer_freq", "1"}}},
      {.name = "glm4_moe",
       .sizes = {151552, 4096, 10944, 46, 96, 8, std::nullopt, 131072, 1e-5},
       .describe = describe_glm4_moe,
       .keys = {"use_qk_norm", "first_k_dense_replace", "num_mtp_layers"},
       .other_names = {kRoutedExpertNames, kPredictionLayerNames},
       .unread = {{"topk_method", R"("noaux_tc")"}, {"scoring_func", R"("sigmoid")"}, {"moe_layer_freq", "1"}}},
      {.name = "glm4",
       .sizes = {151552, 4096, 13696, 40, 32, 2, 128, 131072, 1.5625e-07},
       .end_tokens = {151329, 151336, 151338},
       .describe = describe_glm4}};
  return kAll;
}

}  // namespace metal_marlin
