// gpt-oss (arXiv 2508.10925): attention with sinks, a window in every other layer, experts with biases whose gates are
// clamped.
#include <fmt/format.h>

#include "models/families/experts.h"
#include "models/families/family.h"

namespace metal_marlin {
namespace {

constexpr FieldNames kExpertNames{"num_local_experts", "num_experts"};

// The rotation that is there where no field tells of one.
RopeConfig usual_rope(const JsonObject& config, double max_positions) {
  RopeConfig rope;
  rope.type = RopeType::kYarn;
  rope.theta = positive_or(config, "rope_theta", 150000);
  rope.factor = 32;
  rope.original_max_positions = 4096;
  rope.max_positions = max_positions;
  rope.truncate = false;
  return rope;
}

// What the model's authors call it, which the reference implementation does not read.
void require_same(const JsonObject& config, const char* key, double counting) {
  if (config.has(key)) require(config, key, config.number(key) == counting, fmt::format("{}", counting));
}

void describe_gpt_oss(const JsonObject& config, ModelConfig& out) {
  parse_attention_biases(config, true, out);
  out.sinks = true;
  const std::vector<std::string> types = layer_types_or_period(config, out.layers, 2);
  out.windows = windows_of(types, window_or(config, 128));
  const auto positions = static_cast<double>(out.max_positions);
  const bool has_rope = config.has("rope_parameters") || config.has("rope_scaling");
  out.ropes = {has_rope ? parse_rope(config, types, positions, {.theta = 150000}) : usual_rope(config, positions)};
  require_same(config, "initial_context_length", out.ropes.front().original_max_positions);

  MoeConfig& moe = out.moe;
  parse_experts(config, counting_name(config, kExpertNames),
                {.experts = 128, .top_k = 4, .intermediate = out.intermediate}, moe);
  moe.intermediate = out.intermediate;
  require_same(config, "experts_per_token", static_cast<double>(moe.top_k));
  moe.router = "mlp.router";
  moe.router_offset = moe.biases = true;
  moe.normalize = true;  // a softmax of the chosen logits is the chosen part of that of all, made to add up to 1
  moe.activation = GateActivation::kClamped;
  moe.clamp.alpha = static_cast<float>(positive_or(config, "swiglu_alpha", 1.702));
  moe.clamp.limit = static_cast<float>(positive_or(config, "swiglu_limit", 7));
  out.sparse.assign(out.sparse.size(), true);
}

}  // namespace

Family gpt_oss_family() {
  static const std::vector<Architecture> kAll{
      {.name = "gpt_oss",
       .sizes = {201088, 2880, 2880, 36, 64, 8, 64, 131072, 1e-5},
       .describe = describe_gpt_oss,
       .keys = {"swiglu_alpha", "swiglu_limit", "initial_context_length", "experts_per_token"},
       .other_names = {kExpertNames},
       .by_layer_types = true}};
  return kAll;
}

}  // namespace metal_marlin
