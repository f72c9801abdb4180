// Seed-OSS: Llama whose queries, keys and values have biases, and the output's apart.

#include "models/families/family.h"

namespace metal_marlin {
namespace {

void describe_seed_oss(const JsonObject& config, ModelConfig& out) {
  out.qkv_bias = config.boolean_or("attention_bias", true);
  out.output_bias = config.boolean_or("attention_out_bias", false);
  out.mlp_bias = config.boolean_or("mlp_bias", false);
}

}  // namespace

Family seed_family() {
  static const std::vector<Architecture> kAll{{.name = "seed_oss",
                                               .sizes = {155136, 4096, 27648, 64, 80, 8, 128, 524288, 1e-6},
                                               .end_tokens = {2},
                                               .describe = describe_seed_oss,
                                               .keys = {"attention_out_bias"}}};
  return kAll;
}

}  // namespace metal_marlin
