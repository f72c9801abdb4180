// Phi-3 (arXiv 2404.14219) and Phi-4.
#include <nlohmann/json.hpp>

#include "models/families/family.h"

namespace metal_marlin {
namespace {

void describe_phi3(const JsonObject& config, ModelConfig& out) {
  out.windows.assign(out.windows.size(), window_or(config, 0));
  RopeRules rules{.partial = PartialRotation::kDone, .original_max_positions = 4096};
  rules.longrope_names = true;
  out.ropes = {
      parse_rope(config, listed_layer_types(config, out.layers), static_cast<double>(out.max_positions), rules)};
  const RopeType type = out.ropes[0].type;
  if (type != RopeType::kDefault && type != RopeType::kLongrope)
    config.wrong(config.has("rope_scaling") ? "rope_scaling" : "rope_parameters", "a rotation of type longrope");
}

}  // namespace

Family phi_family() {
  static const std::vector<Architecture> kAll{
      {.name = "phi3",
       .sizes = {32064, 3072, 8192, 32, 32, std::nullopt, std::nullopt, 4096, 1e-5},
       .end_tokens = {32000},
       .describe = describe_phi3,
       .neutral = {{"attention_bias", "false"}, {"mlp_bias", "false"}, {"lm_head_bias", "false"}}}};
  return kAll;
}

}  // namespace metal_marlin
