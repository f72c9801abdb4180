// Mistral (arXiv 2310.06825), Mixtral (2401.04088), which has experts, and Ministral 3, whose queries grow with their
// positions; the text of models of images that have the first or the last.
#include <array>
#include <nlohmann/json.hpp>

#include "models/families/experts.h"
#include "models/families/family.h"

namespace metal_marlin {
namespace {

void describe_mistral(const JsonObject& config, ModelConfig& out) {
  const std::int64_t window = window_or(config, 4096);
  const std::vector<std::string> types = listed_layer_types(config, out.layers);
  // With a list it is what the reference implementation has apart, by the name of ministral.
  if (types.empty()) {
    out.windows.assign(out.windows.size(), window);
  } else {
    out.windows = windows_of(types, window);
  }
  out.ropes = {parse_rope(config, types, static_cast<double>(out.max_positions))};
}

constexpr FieldNames kMixtralExpertNames{"num_local_experts", "num_experts"};

// Its window is of all layers, and its experts are as wide as dense layers would be.
void describe_mixtral(const JsonObject& config, ModelConfig& out) {
  out.windows.assign(out.windows.size(), window_or(config, 0));
  out.ropes = {parse_rope(config, listed_layer_types(config, out.layers), static_cast<double>(out.max_positions),
                          {.theta = 1000000})};
  parse_expert_counts(config, counting_name(config, kMixtralExpertNames), {.experts = 8, .top_k = 2}, out.moe);
  out.moe.intermediate = out.intermediate;
  out.moe.normalize = true;
  out.sparse.assign(out.sparse.size(), true);
}

constexpr std::array<std::string_view, 2> kPositions{"llama_4_scaling_beta", "max_position_embeddings"};

// What the reference implementation has where nothing is said of rotations.
Json usual_rotation() {
  return {{"rope_type", "yarn"},
          {"rope_theta", 1000000.0},
          {"factor", 16.0},
          {"original_max_position_embeddings", 16384},
          {"beta_fast", 32.0},
          {"beta_slow", 1.0},
          {"mscale", 1.0},
          {"mscale_all_dim", 1.0},
          {"llama_4_scaling_beta", 0.1}};
}

void describe_ministral3(const JsonObject& config, ModelConfig& out) {
  if (!config.has("rope_scaling") && !config.has("rope_parameters")) {
    Json whole = config.json();
    whole["rope_parameters"] = usual_rotation();
    return describe_ministral3(JsonObject(whole, config.where()), out);
  }
  out.windows.assign(out.windows.size(), window_or(config, 0));
  out.ropes = {parse_rope(config, listed_layer_types(config, out.layers), static_cast<double>(out.max_positions),
                          {.theta = 1000000, .also = kPositions})};
  const JsonObject rope = config.object(config.has("rope_scaling") ? "rope_scaling" : "rope_parameters");
  out.query_scale = {rope.number("llama_4_scaling_beta"), out.ropes[0].original_max_positions};
}

}  // namespace

Family mistral_family() {
  static const std::vector<Architecture> kAll{
      {.name = "mistral",
       .sizes = {32000, 4096, 14336, 32, 32, 8, std::nullopt, 131072, 1e-6},
       .end_tokens = {2},
       .describe = describe_mistral},
      {.name = "mixtral",
       .sizes = {32000, 4096, 14336, 32, 32, 8, std::nullopt, 131072, 1e-5},
       .end_tokens = {2},
       .describe = describe_mixtral,
       .other_names = {kMixtralExpertNames},
       .unread = {{"norm_topk_prob", "true"}}},
      {.name = "ministral3",
       .sizes = {131072, 4096, 14336, 34, 32, 8, 128, 262144, 1e-5},
       .end_tokens = {2},
       .describe = describe_ministral3},
      {.name = "mistral3",
       .sizes = {},
       .describe = describe_mistral,
       .keys = {"text_config", "vision_config", "image_token_index", "image_token_id", "projector_hidden_act",
                "vision_feature_layer", "multimodal_projector_bias", "spatial_merge_size"},
       .within = "text_config",
       .inner = "mistral"}};
  return kAll;
}

}  // namespace metal_marlin
