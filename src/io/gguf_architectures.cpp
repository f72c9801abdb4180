#include "io/gguf_architectures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "io/gguf_rope.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kWindow = "attention.sliding_window";
constexpr std::string_view kPattern = "attention.sliding_window_pattern";
constexpr std::string_view kThetaOfWindows = "rope.freq_base_swa";

std::int64_t number_of(const Json& config, const char* key) {
  return config.at(key).get<std::int64_t>();
}

void become(Json& config, const char* model_type, const char* class_name) {
  config["model_type"] = model_type;
  config["architectures"] = Json::array({class_name});
}

// 0 and none: the same.
std::int64_t window_of(const GgufKeys& keys, std::int64_t usual = 0) {
  return keys.bounded_or(kWindow, {0, kMaxDimension}, usual);
}

// period: of layers without a window, where no key says it.
void add_windows(const GgufKeys& keys, Json& config, std::int64_t window, std::int64_t period) {
  config["sliding_window"] = window;
  Json types = Json::array();
  for (const bool windowed : keys.windowed(number_of(config, "num_hidden_layers"), period))
    types.push_back(windowed ? "sliding_attention" : "full_attention");
  config["layer_types"] = std::move(types);
}

void add_no_windows(const GgufKeys& keys, Json& config) {
  for (const std::string_view key : {kPattern, kThetaOfWindows}) {
    if (keys.has(key)) keys.unsupported(key, fmt::format("no such key without {}", keys.name(kWindow)));
  }
  config["sliding_window"] = nullptr;
}

// The file's scaling is of layers without a window.
void add_ropes_by_type(const GgufKeys& keys, Json& config, double theta_of_windows) {
  const double theta = keys.positive_or(kThetaOfWindows, theta_of_windows);
  config["rope_parameters"] = {{"full_attention", config.at("rope_parameters")},
                               {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", theta}}}};
}

constexpr std::string_view kExpertCount = "expert_count";
constexpr std::string_view kExpertsUsed = "expert_used_count";
constexpr std::string_view kExpertWidth = "expert_feed_forward_length";
constexpr std::string_view kSharedExpertWidth = "expert_shared_feed_forward_length";
constexpr std::string_view kExpertScoring = "expert_gating_func";

// As llama.cpp runs them, here and below: all layers have experts.
void add_expert_counts(const GgufKeys& keys, Json& config) {
  config["num_experts"] = keys.bounded(kExpertCount, kExpertBounds);
  config["num_experts_per_tok"] = keys.bounded(kExpertsUsed, {1, number_of(config, "num_experts")});
}

// normalize: whether the weights of a token's experts add up to 1, which no key says.
void add_experts(const GgufKeys& keys, Json& config, bool normalize) {
  add_expert_counts(keys, config);
  config["moe_intermediate_size"] =
      keys.bounded_or(kExpertWidth, kDimensionBounds,
                      number_of(config, "intermediate_size") / number_of(config, "num_experts_per_tok"));
  config["norm_topk_prob"] = normalize;
}

void add_qwen2moe(const GgufKeys& keys, Json& config) {
  add_experts(keys, config, false);
  const std::int64_t shared = keys.bounded_or(kSharedExpertWidth, {0, kMaxDimension}, 0);
  config["shared_expert_intermediate_size"] = shared == 0 ? number_of(config, "intermediate_size") : shared;
  config["qkv_bias"] = config.at("attention_bias");
}

void add_qwen3moe(const GgufKeys& keys, Json& config) {
  add_experts(keys, config, true);
}

void add_olmoe(const GgufKeys& keys, Json& config) {
  add_expert_counts(keys, config);
  config["norm_topk_prob"] = false;
}

// A Llama with experts is a Mixtral.
void add_llama(const GgufKeys& keys, Json& config) {
  if (keys.bounded_or(kExpertCount, {0, kExpertBounds.high}, 0) == 0) {
    if (keys.find(kExpertsUsed).value_or(0) != 0)
      keys.unsupported(kExpertsUsed, fmt::format("0 without {}", keys.name(kExpertCount)));
    return;
  }
  become(config, "mixtral", "MixtralForCausalLM");
  add_expert_counts(keys, config);
}

void add_minimax_m2(const GgufKeys& keys, Json& config) {
  constexpr std::int64_t kSigmoid = 2;
  add_expert_counts(keys, config);
  if (keys.find(kExpertScoring).value_or(kSigmoid) != kSigmoid)
    keys.unsupported(kExpertScoring, fmt::format("{}, sigmoids", kSigmoid));
  const std::int64_t width = number_of(config, "intermediate_size");
  if (keys.find(kExpertWidth).value_or(width) != width)
    keys.unsupported(kExpertWidth, fmt::format("{}, as {} is", width, keys.name("feed_forward_length")));
}

constexpr std::string_view kPredictionLayers = "nextn_predict_layers";
constexpr std::string_view kScoring = "expert_gating_func";
enum Scoring : std::int64_t { kNoScoring, kSoftmaxScoring, kSigmoidScoring };

// Of DeepSeek's mixtures, and those like them. As llama.cpp has them, what is left out is not done.
void add_routed_experts(const GgufKeys& keys, Json& config) {
  const std::int64_t experts = keys.bounded("expert_count", kExpertBounds);
  config["n_routed_experts"] = experts;
  config["num_experts_per_tok"] = keys.bounded("expert_used_count", {1, experts});
  config["moe_intermediate_size"] = keys.bounded("expert_feed_forward_length", kDimensionBounds);
  config["n_shared_experts"] = keys.bounded_or("expert_shared_count", {0, kExpertBounds.high}, 0);
  config["n_group"] = std::max<std::int64_t>(keys.bounded_or("expert_group_count", {0, experts}, 1), 1);
  config["topk_group"] = std::max<std::int64_t>(keys.bounded_or("expert_group_used_count", {0, experts}, 1), 1);
  config["routed_scaling_factor"] = keys.positive_unless_zero("expert_weights_scale", 1);
  config["norm_topk_prob"] = keys.boolean("expert_weights_norm").value_or(false);
  config["first_k_dense_replace"] = keys.bounded_or("leading_dense_block_count", {0, kLayerBounds.high}, 0);
  // A file counts them among its blocks.
  const std::int64_t blocks = number_of(config, "num_hidden_layers");
  const std::int64_t predicting = keys.bounded_or(kPredictionLayers, {0, blocks - 1}, 0);
  config["num_hidden_layers"] = blocks - predicting;
  config["num_nextn_predict_layers"] = predicting;
}

void add_glm4moe(const GgufKeys& keys, Json& config) {
  add_routed_experts(keys, config);
  if (keys.find(kScoring).value_or(kSigmoidScoring) != kSigmoidScoring)
    keys.unsupported(kScoring, fmt::format("{}, sigmoids", std::int64_t{kSigmoidScoring}));
  config["use_qk_norm"] = keys.gguf().tensors.contains("blk.0.attn_q_norm.weight");
}

// The widths of heads; newer files have those of latents by the keys that were the heads' own.
void add_latents(const GgufKeys& keys, Json& config) {
  const std::int64_t rotated = number_of(config, "head_dim");
  const std::int64_t rank = keys.bounded("attention.kv_lora_rank", kDimensionBounds);
  const bool split = keys.has("attention.key_length_mla");
  const char* const key_length = split ? "attention.key_length_mla" : "attention.key_length";
  const std::int64_t key = keys.bounded(key_length, {1, 2 * kHeadDimBounds.high});
  if (key <= rotated) keys.wrong(key_length, fmt::format("more than {}, the elements that are rotated", rotated));
  config["qk_nope_head_dim"] = key - rotated;
  config["qk_rope_head_dim"] = rotated;
  config["v_head_dim"] =
      keys.bounded(split ? "attention.value_length_mla" : "attention.value_length", {1, kHeadDimBounds.high});
  config["kv_lora_rank"] = rank;
  const std::int64_t q_rank = keys.bounded_or("attention.q_lora_rank", {0, kMaxDimension}, 0);
  config["q_lora_rank"] = q_rank == 0 ? Json() : Json(q_rank);
  const std::int64_t heads = number_of(config, "num_attention_heads");
  if (const std::int64_t found = keys.find("attention.head_count_kv").value_or(1); found != 1 && found != heads)
    keys.wrong("attention.head_count_kv", fmt::format("1 or {}, as attention is latent", heads));
  config["num_key_value_heads"] = heads;
  config.erase("head_dim");
  if (!split) return;
  if (keys.find("attention.key_length").value_or(rank + rotated) != rank + rotated)
    keys.wrong("attention.key_length", fmt::format("{}, of a latent and what is rotated", rank + rotated));
  if (keys.find("attention.value_length").value_or(rank) != rank)
    keys.wrong("attention.value_length", fmt::format("{}, of a latent", rank));
}

// The key has a tenth of the weight here, and the other weight is the same: cosines and sines are not scaled.
void add_temperature(const GgufKeys& keys, Json& config) {
  constexpr std::string_view kTenth = "rope.scaling.yarn_log_multiplier";
  const auto tenth = keys.number(kTenth);
  if (!tenth || *tenth == 0) return;
  Json& rope = config["rope_parameters"];
  if (!rope.contains("mscale_all_dim"))
    keys.unsupported(
        kTenth, fmt::format("no {} or rope.scaling.attn_factor beside it", keys.name("rope.scaling.yarn_attn_factor")));
  rope["mscale"] = rope["mscale_all_dim"] = static_cast<float>(*tenth) / 0.1F;
}

// What it is follows from how experts are scored, which old files do not say: those with biases are DeepSeek V3's kind.
void add_deepseek2(const GgufKeys& keys, Json& config) {
  add_latents(keys, config);
  add_routed_experts(keys, config);
  add_temperature(keys, config);
  const auto& tensors = keys.gguf().tensors;
  const bool biased = std::any_of(tensors.begin(), tensors.end(),
                                  [](const auto& tensor) { return tensor.first.ends_with(".exp_probs_b.bias"); });
  std::int64_t scoring = keys.find(kScoring).value_or(kNoScoring);
  if (scoring == kNoScoring) scoring = biased ? kSigmoidScoring : kSoftmaxScoring;
  if (scoring == kSigmoidScoring) return;
  if (scoring != kSoftmaxScoring) keys.unsupported(kScoring, "1, a softmax, or 2, sigmoids");
  if (config.at("norm_topk_prob").get<bool>())
    keys.unsupported("expert_weights_norm", "false, as scores are a softmax'");
  become(config, "deepseek_v2", "DeepseekV2ForCausalLM");
  config["topk_method"] = number_of(config, "n_group") > 1 ? "group_limited_greedy" : "greedy";
}

// The window counts, as in the reference implementation; llama.cpp has turned it off.
void add_phi3(const GgufKeys& keys, Json& config) {
  const std::int64_t window = window_of(keys);
  config["sliding_window"] = window == 0 ? Json() : Json(window);
}

// Scores are scaled by the heads' size but in the largest model, which is told by its layers alone.
void add_gemma(Json& config, std::int64_t layers_of_largest) {
  config.erase("hidden_act");
  config["hidden_activation"] = "gelu_pytorch_tanh";
  config["query_pre_attn_scalar"] = number_of(config, "num_hidden_layers") == layers_of_largest
                                        ? number_of(config, "hidden_size") / number_of(config, "num_attention_heads")
                                        : number_of(config, "head_dim");
}

void add_gemma2(const GgufKeys& keys, Json& config) {
  add_gemma(config, 46);
  config["attn_logit_softcapping"] = keys.positive_or("attn_logit_softcapping", 50);
  config["final_logit_softcapping"] = keys.positive_or("final_logit_softcapping", 30);
  add_windows(keys, config, keys.bounded_or(kWindow, kDimensionBounds, 4096), 2);
}

void add_gemma3(const GgufKeys& keys, Json& config) {
  add_gemma(config, 62);
  const double cap = keys.positive_unless_zero("final_logit_softcapping", 0);
  config["final_logit_softcapping"] = cap == 0 ? Json() : Json(cap);
  const std::int64_t window = window_of(keys);
  if (window == 0) {
    add_no_windows(keys, config);
    config["layer_types"] = Json(std::vector<std::string>(config["num_hidden_layers"], "full_attention"));
  } else {
    add_windows(keys, config, window, 6);
  }
  add_ropes_by_type(keys, config, 10000);
}

// OLMo 3 is an OLMo 2 with windows.
void add_olmo2(const GgufKeys& keys, Json& config) {
  const std::int64_t window = window_of(keys);
  if (window == 0) {
    add_no_windows(keys, config);
    config.erase("sliding_window");
    return;
  }
  become(config, "olmo3", "Olmo3ForCausalLM");
  add_windows(keys, config, window, 4);
  add_ropes_by_type(keys, config, keys.positive_or("rope.freq_base", 10000));
}

void add_smollm3(const GgufKeys&, Json& config) {
  config["no_rope_layer_interval"] = 4;
  config["use_sliding_window"] = false;
}

void add_granite(const GgufKeys& keys, Json& config) {
  if (!keys.boolean("rope.scaling.finetuned").value_or(true))
    keys.unsupported("rope.scaling.finetuned", "true, as layers without a rotation are not implemented");
  const auto head_dim = static_cast<double>(number_of(config, "head_dim"));
  config["logits_scaling"] = keys.positive_or("logit_scale", 0);
  config["embedding_multiplier"] = keys.positive_unless_zero("embedding_scale", 1);
  config["residual_multiplier"] = keys.positive_unless_zero("residual_scale", 1);
  config["attention_multiplier"] = keys.positive_unless_zero("attention.scale", 1 / std::sqrt(head_dim));
}

// Models of this many layers have a window where no key says it.
constexpr std::int64_t kExaoneWithWindows = 64;

// Windows count in models of all sizes, as in the reference implementation.
void add_exaone4(const GgufKeys& keys, Json& config) {
  const std::int64_t layers = number_of(config, "num_hidden_layers");
  const std::int64_t window = window_of(keys, layers == kExaoneWithWindows ? 4096 : 0);
  window == 0 ? add_no_windows(keys, config) : add_windows(keys, config, window, 4);
}

// A divisor of this size and more leaves a pair as it is.
constexpr float kNoTurn = 1e29F;

// Rotations of full layers are of a part of each head, whose other pairs have divisors beyond measure.
Json gemma4_full_rope(const GgufKeys& keys, std::int64_t head_dim) {
  constexpr const char* kFrequencies = "rope_freqs.weight";
  const std::vector<float> factors = gguf_rope_factors(keys.gguf(), kFrequencies, head_dim / 2);
  const auto turned = std::find_if(factors.begin(), factors.end(), [](float factor) { return factor != 1; });
  if (factors.empty() || std::any_of(turned, factors.end(), [](float factor) { return factor < kNoTurn; }))
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: tensor {}: expected ones, and then numbers from 1e29 on",
                                                     keys.gguf().where, kFrequencies));
  return {{"rope_type", "proportional"},
          {"rope_theta", keys.positive_or("rope.freq_base", 10000)},
          {"partial_rotary_factor", gguf_rotated_part(2 * (turned - factors.begin()), head_dim)}};
}

// Whether layers without a window have keys for values too: then none has a projection of values.
bool keys_are_values(const GgufKeys& keys, const std::vector<bool>& windowed, std::int64_t own) {
  std::int64_t with = 0;
  std::int64_t without = 0;
  for (std::int64_t i = 0; i < own; ++i) {
    if (windowed[static_cast<std::size_t>(i)]) continue;
    ++(keys.gguf().tensors.contains(fmt::format("blk.{}.attn_v.weight", i)) ? with : without);
  }
  if (with > 0 && without > 0)
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: {} layers without a window have attn_v.weight, and {} have not, expected all or none",
                            keys.gguf().where, with, without));
  return without > 0;
}

void add_gemma4_heads(const GgufKeys& keys, Json& config, const std::vector<bool>& windowed) {
  const auto layers = static_cast<std::int64_t>(windowed.size());
  const std::int64_t full = keys.bounded("attention.key_length", kHeadDimBounds);
  for (const char* const key : {"attention.value_length", "rope.dimension_count"}) {
    if (keys.find(key).value_or(full) != full)
      keys.unsupported(key, fmt::format("{}, as {}", full, keys.name("attention.key_length")));
  }
  const std::vector<std::int64_t> key_heads = keys.of_layers("attention.head_count_kv", kHeadBounds, layers);
  config["num_key_value_heads"] = key_heads.front();
  for (std::size_t i = 0; i < windowed.size(); ++i) {
    config["per_layer_config"][std::to_string(i)] = {{"head_dim", windowed[i] ? number_of(config, "head_dim") : full},
                                                     {"num_key_value_heads", key_heads[i]}};
  }
  const std::int64_t shared = keys.bounded_or("attention.shared_kv_layers", {0, layers - 1}, 0);
  config["num_kv_shared_layers"] = shared;
  config["attention_k_eq_v"] = keys_are_values(keys, windowed, layers - shared);
  // Of those that share, twice as many neurons.
  const std::vector<std::int64_t> widths = keys.of_layers("feed_forward_length", kDimensionBounds, layers);
  const bool wide = widths.front() != widths.back();
  config["use_double_wide_mlp"] = wide;
  for (std::int64_t i = 0; i < layers; ++i) {
    const std::int64_t expected = widths.front() * (wide && i >= layers - shared ? 2 : 1);
    if (widths[static_cast<std::size_t>(i)] != expected)
      keys.unsupported("feed_forward_length", fmt::format("{} in layer {}", expected, i));
  }
}

// Where there are any, all layers have them beside their dense parts.
void add_gemma4_experts(const GgufKeys& keys, Json& config) {
  const std::int64_t experts = keys.bounded_or("expert_count", {0, kExpertBounds.high}, 0);
  config["enable_moe_block"] = experts > 0;
  if (experts == 0) return;
  config["num_experts"] = experts;
  config["top_k_experts"] = keys.bounded("expert_used_count", {1, experts});
  config["moe_intermediate_size"] = keys.bounded("expert_feed_forward_length", kDimensionBounds);
}

void add_gemma4(const GgufKeys& keys, Json& config) {
  config.erase("hidden_act");
  config["hidden_activation"] = "gelu_pytorch_tanh";
  for (const auto& [key, value] : keys.gguf().values) {
    if (key.starts_with(keys.name("rope.scal")) && key != keys.name("rope.scaling.finetuned"))
      keys.unsupported(key.substr(keys.name("").size()), "no such key");
  }
  add_windows(keys, config, keys.bounded(kWindow, kDimensionBounds), 6);
  add_gemma4_heads(keys, config, keys.windowed(number_of(config, "num_hidden_layers"), 6));
  add_gemma4_experts(keys, config);
  config["hidden_size_per_layer_input"] = keys.bounded_or("embedding_length_per_layer_input", {0, kMaxDimension}, 0);
  const auto table = keys.gguf().tensors.find("per_layer_token_embd.weight");
  if (table != keys.gguf().tensors.end() && !table->second.shape.empty())
    config["vocab_size_per_layer_input"] = table->second.shape.front();
  const double cap = keys.positive_unless_zero("final_logit_softcapping", 0);
  config["final_logit_softcapping"] = cap == 0 ? Json() : Json(cap);
  config["rope_parameters"] = gemma4_full_rope(keys, keys.bounded("attention.key_length", kHeadDimBounds));
  add_ropes_by_type(keys, config, 10000);
}

void add_seed_oss(const GgufKeys&, Json& config) {
  config["attention_out_bias"] = false;
}

void add_cohere2(const GgufKeys& keys, Json& config) {
  config["layer_norm_eps"] = config.at("rms_norm_eps");
  config.erase("rms_norm_eps");
  config["logit_scale"] = keys.positive_or("logit_scale", 0);
  add_windows(keys, config, keys.bounded(kWindow, kDimensionBounds), 4);
}

// YaRN's bounds are not rounded, as in the reference implementation; llama.cpp rounds them.
void add_gpt_oss(const GgufKeys& keys, Json& config) {
  add_expert_counts(keys, config);
  config["intermediate_size"] = keys.bounded_or(kExpertWidth, kDimensionBounds, number_of(config, "intermediate_size"));
  const std::int64_t window = window_of(keys, 128);
  window == 0 ? add_no_windows(keys, config) : add_windows(keys, config, window, 2);
  Json& rope = config["rope_parameters"];
  if (rope.at("rope_type") == "yarn") rope["truncate"] = false;
  const double theta = rope.at("rope_theta").get<double>();
  if (keys.positive_or(kThetaOfWindows, theta) != theta)
    keys.unsupported(kThetaOfWindows, fmt::format("{}, as of the other layers", theta));
}

// Without a temperature it is a Mistral.
void add_mistral3(const GgufKeys& keys, Json& config) {
  const double beta = keys.positive_unless_zero("attention.temperature_scale", 0);
  config["sliding_window"] = nullptr;
  if (beta == 0) return;
  become(config, "ministral3", "Ministral3ForCausalLM");
  config["rope_parameters"]["llama_4_scaling_beta"] = beta;
}

const std::vector<GgufArchitecture>& all() {
  const std::vector<GgufName> norms_after{{"post_attention_norm.", "post_attention_layernorm."},
                                          {"post_ffw_norm.", "post_feedforward_layernorm."}};
  const std::vector<GgufName> norms_around{{"ffn_norm.", "pre_feedforward_layernorm."},
                                           {"post_attention_norm.", "post_attention_layernorm."},
                                           {"post_ffw_norm.", "post_feedforward_layernorm."}};
  // Of DeepSeek's mixtures, and of the layers after the last.
  const std::vector<std::string_view> routed_keys{
      "expert_count",       "expert_used_count",         "expert_feed_forward_length", "expert_shared_count",
      "expert_group_count", "expert_group_used_count",   "expert_weights_scale",       "expert_weights_norm",
      "expert_gating_func", "leading_dense_block_count", "nextn_predict_layers"};
  const std::vector<GgufName> routed_names{{"exp_probs_b.bias", "mlp.gate.e_score_correction_bias"},
                                           {"ffn_gate_shexp.", "mlp.shared_experts.gate_proj."},
                                           {"ffn_up_shexp.", "mlp.shared_experts.up_proj."},
                                           {"ffn_down_shexp.", "mlp.shared_experts.down_proj."},
                                           {"nextn.eh_proj.", "eh_proj."},
                                           {"nextn.embed_tokens.", "embed_tokens."},
                                           {"nextn.enorm.", "enorm."},
                                           {"nextn.hnorm.", "hnorm."},
                                           {"nextn.shared_head_head.", "shared_head.head."},
                                           {"nextn.shared_head_norm.", "shared_head.norm."}};
  const auto joined = [](auto list, const auto& others) {
    list.insert(list.end(), others.begin(), others.end());
    return list;
  };
  static const std::vector<GgufArchitecture> kAll{
      {.name = "llama",
       .model_type = "llama",
       .class_name = "LlamaForCausalLM",
       .add = add_llama,
       .keys = {kExpertCount, kExpertsUsed},
       .pairs = true},
      {.name = "qwen2", .model_type = "qwen2", .class_name = "Qwen2ForCausalLM", .output_bias = false},
      {.name = "qwen3", .model_type = "qwen3", .class_name = "Qwen3ForCausalLM"},
      {.name = "qwen2moe",
       .model_type = "qwen2_moe",
       .class_name = "Qwen2MoeForCausalLM",
       .add = add_qwen2moe,
       .keys = {kExpertCount, kExpertsUsed, kExpertWidth, kSharedExpertWidth},
       .names = {{"ffn_gate_inp_shexp.", "mlp.shared_expert_gate."},
                 {"ffn_gate_shexp.", "mlp.shared_expert.gate_proj."},
                 {"ffn_up_shexp.", "mlp.shared_expert.up_proj."},
                 {"ffn_down_shexp.", "mlp.shared_expert.down_proj."}},
       .output_bias = false},
      {.name = "qwen3moe",
       .model_type = "qwen3_moe",
       .class_name = "Qwen3MoeForCausalLM",
       .add = add_qwen3moe,
       .keys = {kExpertCount, kExpertsUsed, kExpertWidth}},
      {.name = "phi3",
       .model_type = "phi3",
       .class_name = "Phi3ForCausalLM",
       .add = add_phi3,
       .keys = {kWindow},
       .names = {{"ffn_up.", "mlp.gate_up_proj."}},
       .partial = true},
      {.name = "gemma2",
       .model_type = "gemma2",
       .class_name = "Gemma2ForCausalLM",
       .add = add_gemma2,
       .keys = {kWindow, kPattern, "attn_logit_softcapping", "final_logit_softcapping"},
       .names = norms_around,
       .one_more = true},
      {.name = "gemma3",
       .model_type = "gemma3_text",
       .class_name = "Gemma3ForCausalLM",
       .add = add_gemma3,
       .keys = {kWindow, kPattern, kThetaOfWindows, "final_logit_softcapping"},
       .names = norms_around,
       .one_more = true},
      {.name = "gemma4",
       .model_type = "gemma4_text",
       .class_name = "Gemma4ForCausalLM",
       .add = add_gemma4,
       .keys = {kWindow, kPattern, kThetaOfWindows, "final_logit_softcapping", "attention.key_length_swa",
                "attention.value_length_swa", "rope.dimension_count_swa", "attention.shared_kv_layers",
                "embedding_length_per_layer_input", "expert_count", "expert_used_count", "expert_feed_forward_length"},
       .names = {{"ffn_norm.", "pre_feedforward_layernorm."},
                 {"post_attention_norm.", "post_attention_layernorm."},
                 {"post_ffw_norm.", "post_feedforward_layernorm."},
                 {"inp_gate.", "per_layer_input_gate."},
                 {"proj.", "per_layer_projection."},
                 {"post_norm.", "post_per_layer_input_norm."},
                 {"layer_output_scale.weight", "layer_scalar"},
                 {"ffn_gate_inp.weight", "router.proj.weight"},
                 {"ffn_gate_inp.scale", "router.scale"},
                 {"ffn_down_exps.scale", "router.per_expert_scale"},
                 {"ffn_gate_up_exps.", "experts.*.gate_up_proj."},
                 {"ffn_gate_exps.", "experts.*.gate_proj."},
                 {"ffn_up_exps.", "experts.*.up_proj."},
                 {"ffn_down_exps.", "experts.*.down_proj."},
                 {"pre_ffw_norm_2.", "pre_feedforward_layernorm_2."},
                 {"post_ffw_norm_1.", "post_feedforward_layernorm_1."},
                 {"post_ffw_norm_2.", "post_feedforward_layernorm_2."}},
       .top_names = {{"per_layer_token_embd.", "model.embed_tokens_per_layer."},
                     {"per_layer_model_proj.", "model.per_layer_model_projection."},
                     {"per_layer_proj_norm.", "model.per_layer_projection_norm."}},
       .head_suffix = "_swa"},
      {.name = "olmo2",
       .model_type = "olmo2",
       .class_name = "Olmo2ForCausalLM",
       .add = add_olmo2,
       .keys = {kWindow, kPattern, kThetaOfWindows},
       .names = norms_after},
      {.name = "olmoe",
       .model_type = "olmoe",
       .class_name = "OlmoeForCausalLM",
       .add = add_olmoe,
       .keys = {kExpertCount, kExpertsUsed}},
      {.name = "minimax-m2",
       .model_type = "minimax_m2",
       .class_name = "MiniMaxM2ForCausalLM",
       .add = add_minimax_m2,
       .keys = {kExpertCount, kExpertsUsed, kExpertWidth, kExpertScoring},
       .names = {{"exp_probs_b.bias", "mlp.gate.e_score_correction_bias"}},
       .partial = true},
      {.name = "smollm3",
       .model_type = "smollm3",
       .class_name = "SmolLM3ForCausalLM",
       .add = add_smollm3,
       .pairs = true},
      {.name = "granite",
       .model_type = "granite",
       .class_name = "GraniteForCausalLM",
       .add = add_granite,
       .keys = {"logit_scale", "embedding_scale", "residual_scale", "attention.scale"},
       .pairs = true},
      {.name = "glm4",
       .model_type = "glm4",
       .class_name = "Glm4ForCausalLM",
       .names = {{"ffn_up.", "mlp.gate_up_proj."},
                 {"post_attention_norm.", "post_self_attn_layernorm."},
                 {"post_ffw_norm.", "post_mlp_layernorm."}},
       .partial = true,
       .output_bias = false},
      {.name = "glm4moe",
       .model_type = "glm4_moe",
       .class_name = "Glm4MoeForCausalLM",
       .add = add_glm4moe,
       .keys = routed_keys,
       .names = joined(routed_names, std::vector<GgufName>{{"post_attention_norm.", "post_attention_layernorm."}}),
       .partial = true,
       .output_bias = false},
      {.name = "deepseek2",
       .model_type = "deepseek_v3",
       .class_name = "DeepseekV3ForCausalLM",
       .add = add_deepseek2,
       .keys =
           joined(routed_keys, std::vector<std::string_view>{"attention.kv_lora_rank", "attention.q_lora_rank",
                                                             "attention.key_length_mla", "attention.value_length_mla",
                                                             "rope.scaling.yarn_log_multiplier"}),
       .names = joined(routed_names, std::vector<GgufName>{{"attn_q_a_norm.", "self_attn.q_a_layernorm."},
                                                           {"attn_q_a.", "self_attn.q_a_proj."},
                                                           {"attn_q_b.", "self_attn.q_b_proj."},
                                                           {"attn_kv_a_norm.", "self_attn.kv_a_layernorm."},
                                                           {"attn_kv_a_mqa.", "self_attn.kv_a_proj_with_mqa."},
                                                           {"attn_kv_b.", "self_attn.kv_b_proj."},
                                                           {"attn_k_b.", "self_attn.k_b_proj."},
                                                           {"attn_v_b.", "self_attn.v_b_proj."}}),
       .latent = true},
      {.name = "exaone4",
       .model_type = "exaone4",
       .class_name = "Exaone4ForCausalLM",
       .add = add_exaone4,
       .keys = {kWindow, kPattern},
       .names = norms_after},
      {.name = "seed_oss",
       .model_type = "seed_oss",
       .class_name = "SeedOssForCausalLM",
       .add = add_seed_oss,
       .names = {{"post_attention_norm.", "post_attention_layernorm."}},
       .output_bias = false},
      {.name = "cohere2",
       .model_type = "cohere2",
       .class_name = "Cohere2ForCausalLM",
       .add = add_cohere2,
       .keys = {kWindow, kPattern, "logit_scale"},
       .eps_key = "attention.layer_norm_epsilon"},
      {.name = "gpt-oss",
       .model_type = "gpt_oss",
       .class_name = "GptOssForCausalLM",
       .add = add_gpt_oss,
       .keys = {kWindow, kPattern, kThetaOfWindows, kExpertCount, kExpertsUsed, kExpertWidth},
       .names = {{"attn_sinks.weight", "self_attn.sinks"},
                 {"post_attention_norm.", "post_attention_layernorm."},
                 {"ffn_gate_inp.", "mlp.router."}}},
      {.name = "mistral3",
       .model_type = "mistral",
       .class_name = "MistralForCausalLM",
       .add = add_mistral3,
       .keys = {"attention.temperature_scale", "rope.scaling.yarn_log_multiplier"},
       .pairs = true}};
  return kAll;
}

}  // namespace

const GgufArchitecture& gguf_architecture(const Gguf& gguf) {
  const auto name = gguf.string("general.architecture");
  if (!name) throw Error(ErrorCode::kNotFound, fmt::format("{}: key general.architecture is missing", gguf.where));
  std::string known;
  for (const GgufArchitecture& architecture : all()) {
    if (architecture.name == *name) return architecture;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", architecture.name);
  }
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}: architecture {} is not one we implement; known: {}", gguf.where, *name, known));
}

}  // namespace metal_marlin
