// Granite 3: Llama with factors on the embedding, on scores, on what is added and on logits.

#include "models/families/family.h"

namespace metal_marlin {
namespace {

void describe_granite(const JsonObject& config, ModelConfig& out) {
  parse_attention_biases(config, false, out);
  out.mlp_bias = config.boolean_or("mlp_bias", false);
  out.embedding_scale = config.number_or("embedding_multiplier", 1);
  out.attention_scale = config.number_or("attention_multiplier", 1);
  out.residual_scale = config.number_or("residual_multiplier", 1);
  out.logits_scale = 1 / positive_or(config, "logits_scaling", 1);
}

}  // namespace

Family granite_family() {
  static const std::vector<Architecture> kAll{
      {.name = "granite",
       .sizes = {32000, 4096, 11008, 32, 32, std::nullopt, std::nullopt, 2048, 1e-6},
       .end_tokens = {2},
       .describe = describe_granite,
       .keys = {"embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"}}};
  return kAll;
}

}  // namespace metal_marlin
