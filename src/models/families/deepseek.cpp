// DeepSeek V2 (arXiv 2405.04434): latent attention, experts chosen by a softmax, maybe within groups. DeepSeek V3
// (2412.19437), and Kimi K2, which is one: experts chosen by sigmoids and a bias within groups.
#include "models/families/deepseek.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/families/experts.h"

namespace metal_marlin {
namespace {

constexpr const char* kRopeDim = "qk_rope_head_dim";
constexpr FieldNames kV2ExpertNames{"n_routed_experts", "num_experts"};

// Of a mixture, when how many experts there are and are chosen is known.
void set_groups(const JsonObject& config, std::int64_t groups, std::int64_t top_groups, MoeConfig& moe) {
  if (moe.experts % groups != 0) config.wrong("n_group", fmt::format("a divisor of n_routed_experts {}", moe.experts));
  if (groups > 1 && moe.experts / groups < moe.group_best)
    config.wrong("n_group", fmt::format("groups of at least {} experts", moe.group_best));
  if (top_groups > groups)
    config.wrong("topk_group",
                 fmt::format("no more than {} groups, as it is {} where it is left out", groups, top_groups));
  if (moe.top_k > moe.experts / groups * top_groups)
    config.wrong("num_experts_per_tok", "no more experts than topk_group groups have");
  moe.groups = groups;
  moe.top_groups = top_groups;
}

// They are held as one.
void set_shared_experts(const JsonObject& config, std::int64_t usual, MoeConfig& moe) {
  moe.shared_intermediate = config.bounded_or("n_shared_experts", {0, kExpertBounds.high}, usual) * moe.intermediate;
}

void describe_latent(const JsonObject& config, const LatentConfig& usual, ModelConfig& out) {
  parse_attention_biases(config, false, out);
  out.latent = parse_latent(config, kRopeDim, usual);
  out.head_dim = out.latent.nope_dim + out.latent.rope_dim;
  out.ropes = {parse_rope(config, listed_layer_types(config, out.layers), static_cast<double>(out.max_positions))};
}

void describe_deepseek_v3(const JsonObject& config, ModelConfig& out) {
  describe_latent(config, {.q_rank = 1536, .rank = 512, .nope_dim = 128, .rope_dim = 64, .value_dim = 128}, out);
  if (config.json().contains("rope_interleave") && !config.has("rope_interleave")) out.latent.interleaved = false;
  // Its angles are made for heads of this size, which are those of the rotated part where it is left out.
  require(config, "head_dim", !config.has("head_dim") || config.integer("head_dim") == out.latent.rope_dim,
          fmt::format("{}, as {} is", out.latent.rope_dim, kRopeDim));
  out.moe = parse_sigmoid_experts(config, {.experts = 256,
                                           .top_k = 8,
                                           .intermediate = 2048,
                                           .groups = 8,
                                           .top_groups = 4,
                                           .normalize = true,
                                           .scale = 2.5});
  parse_dense_beginning(config, 3, out);
  parse_prediction_layers(config, out);
}

// Weights are a softmax' scores, times a factor: they are not made to add up to 1, whatever norm_topk_prob says.
MoeConfig parse_softmax_experts(const JsonObject& config) {
  MoeConfig moe;
  parse_experts(config, counting_name(config, kV2ExpertNames),
                {.experts = 64, .top_k = config.bounded("num_experts_per_tok", kExpertBounds), .intermediate = 1407},
                moe);
  set_shared_experts(config, 2, moe);
  moe.scale = config.number_or("routed_scaling_factor", 1);
  const std::string method = config.string_or("topk_method", "greedy");
  const bool grouped = method == "group_limited_greedy";
  require(config, "topk_method", grouped || method == "greedy", "greedy or group_limited_greedy");
  if (!grouped) return moe;
  moe.group_best = 1;
  const std::int64_t groups = config.bounded("n_group", {1, moe.experts});
  set_groups(config, groups, config.bounded("topk_group", {1, groups}), moe);
  return moe;
}

void describe_deepseek_v2(const JsonObject& config, ModelConfig& out) {
  describe_latent(config, {.q_rank = 1536, .rank = 512, .nope_dim = 128, .rope_dim = 64, .value_dim = 128}, out);
  out.latent.interleaved = true;
  out.mlp_bias = config.boolean_or("mlp_bias", false);
  out.moe = parse_softmax_experts(config);
  parse_dense_beginning(config, 0, out);
}

}  // namespace

LatentConfig parse_latent(const JsonObject& config, const char* rope_dim_key, const LatentConfig& usual) {
  LatentConfig latent;
  const bool whole = config.json().contains("q_lora_rank") && !config.has("q_lora_rank");
  latent.q_rank = whole ? 0 : config.bounded_or("q_lora_rank", kDimensionBounds, usual.q_rank);
  latent.rank = config.bounded_or("kv_lora_rank", kDimensionBounds, usual.rank);
  latent.nope_dim = config.bounded_or("qk_nope_head_dim", {1, kHeadDimBounds.high}, usual.nope_dim);
  latent.rope_dim = config.bounded_or(rope_dim_key, kHeadDimBounds, usual.rope_dim);
  latent.value_dim = config.bounded_or("v_head_dim", {1, kHeadDimBounds.high}, usual.value_dim);
  latent.interleaved = config.boolean_or("rope_interleave", true);
  if (latent.rope_dim % 2 != 0) config.wrong(rope_dim_key, "an even number");
  return latent;
}

MoeConfig parse_sigmoid_experts(const JsonObject& config, const MoeConfig& usual) {
  MoeConfig moe;
  parse_experts(config, counting_name(config, kRoutedExpertNames), usual, moe);
  set_shared_experts(config, 1, moe);
  const std::int64_t groups = config.bounded_or("n_group", {1, moe.experts}, usual.groups);
  set_groups(config, groups, config.bounded_or("topk_group", {1, groups}, usual.top_groups), moe);
  moe.scoring = RouterScoring::kSigmoid;
  moe.router_bias = true;
  moe.normalize = config.boolean_or("norm_topk_prob", usual.normalize);
  moe.scale = config.number_or("routed_scaling_factor", usual.scale);
  return moe;
}

void parse_dense_beginning(const JsonObject& config, std::int64_t usual, ModelConfig& out) {
  const std::int64_t dense = std::clamp(config.integer_or("first_k_dense_replace", usual), std::int64_t{0}, out.layers);
  out.sparse.assign(out.sparse.size(), true);
  std::fill_n(out.sparse.begin(), dense, false);
}

void parse_prediction_layers(const JsonObject& config, ModelConfig& out) {
  out.mtp_layers = config.bounded_or(counting_name(config, kPredictionLayerNames), {0, kLayerBounds.high}, 1);
}

Family deepseek_family() {
  static const std::vector<Architecture> kAll = [] {
    Architecture v3{
        .name = "deepseek_v3",
        .sizes = {129280, 7168, 18432, 61, 128, 128, std::nullopt, 4096, 1e-6},
        .end_tokens = {1},
        .describe = describe_deepseek_v3,
        .keys = {"qk_head_dim", "first_k_dense_replace", "num_mtp_layers"},
        .other_names = {kRoutedExpertNames, kPredictionLayerNames},
        .unread = {{"topk_method", R"("noaux_tc")"}, {"scoring_func", R"("sigmoid")"}, {"moe_layer_freq", "1"}}};
    Architecture kimi = v3;
    kimi.name = "kimi_k2";
    const Architecture v2{.name = "deepseek_v2",
                          .sizes = {102400, 4096, 11008, 32, 32, std::nullopt, std::nullopt, 2048, 1e-6},
                          .end_tokens = {2},
                          .describe = describe_deepseek_v2,
                          .keys = {"qk_head_dim", "first_k_dense_replace", "topk_method"},
                          .other_names = {kV2ExpertNames},
                          .unread = {{"norm_topk_prob", "false"},
                                     {"scoring_func", R"("softmax")"},
                                     {"rope_interleave", "true"},
                                     {"moe_layer_freq", "1"}}};
    return std::vector<Architecture>{v2, v3, kimi};
  }();
  return kAll;
}

}  // namespace metal_marlin
