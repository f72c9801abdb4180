// EXAONE 4 (arXiv 2507.11407): norms follow the parts; where some layers have windows, the others have no rotation.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/families/family.h"

namespace metal_marlin {
namespace {

void describe_exaone4(const JsonObject& config, ModelConfig& out) {
  out.qk_norm = QkNorm::kHeads;
  out.attention_norms = {"", "post_attention_layernorm"};
  out.feed_forward_norms = {"", "post_feedforward_layernorm"};
  const std::int64_t window = window_or(config, 4096);
  // Newer files spell the pattern in letters beside the list that it makes.
  const bool listed = config.has("layer_types");
  const std::int64_t period =
      window == 0 || listed ? 0 : config.bounded_or("sliding_window_pattern", kDimensionBounds, 4);
  const std::vector<std::string> types = layer_types_or_period(config, out.layers, period);
  out.windows = windows_of(types, window);
  if (window == 0) return;
  std::transform(types.begin(), types.end(), out.rotations.begin(),
                 [](const std::string& type) { return type == kSlidingLayer ? 0 : kNoRotation; });
}

}  // namespace

Family exaone_family() {
  static const std::vector<Architecture> kAll{{.name = "exaone4",
                                               .sizes = {102400, 4096, 16384, 32, 32, 32, std::nullopt, 2048, 1e-5},
                                               .end_tokens = {2},
                                               .describe = describe_exaone4,
                                               .keys = {"sliding_window_pattern"},
                                               .by_layer_types = true}};
  return kAll;
}

}  // namespace metal_marlin
