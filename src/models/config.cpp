#include "models/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/parse_number.h"
#include "base/thread_pool.h"
#include "io/checkpoint.h"
#include "io/model_bounds.h"
#include "io/tensor_names.h"
#include "metal_marlin/error.h"
#include "models/config_keys.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kSliding = "sliding_attention";

// The types of layers that a model's list names; all alike without one.
std::vector<std::string> parse_layer_types(const JsonObject& config, std::int64_t layers) {
  if (!config.has("layer_types")) return {"full_attention"};
  const Json& types = config.at("layer_types");
  if (!types.is_array() || types.size() != static_cast<std::size_t>(layers))
    config.wrong("layer_types", fmt::format("{} entries", layers));
  std::vector<std::string> out;
  for (const Json& type : types) {
    if (type != "full_attention" && type != kSliding)
      config.wrong("layer_types", "full_attention or sliding_attention entries");
    out.push_back(type.get<std::string>());
  }
  return out;
}

// As the reference implementation has them: none in Llama and GLM, in all layers of Qwen3-MoE, and in those of Qwen3
// that its list names or, without one, that follow the first 28. The others' attention does not go by such a list.
std::vector<std::int64_t> parse_windows(const JsonObject& config, const std::string& architecture,
                                        std::int64_t layers) {
  std::vector<std::int64_t> windows(static_cast<std::size_t>(layers), 0);
  const std::vector<std::string> types = parse_layer_types(config, layers);
  const bool listed = config.has("layer_types");
  const bool qwen3 = architecture == "qwen3";
  const bool any = qwen3 && std::find(types.begin(), types.end(), kSliding) != types.end();
  const bool windowed = qwen3 || architecture == "qwen3_moe";
  const bool off = config.json().contains("sliding_window") && !config.has("sliding_window");
  if (!windowed || off || !config.boolean_or("use_sliding_window", any)) {
    if (any) config.wrong("sliding_window", "a window, as layer_types has layers other than full_attention");
    return windows;
  }
  const std::int64_t window = config.bounded_or("sliding_window", kDimensionBounds, 4096);
  const std::int64_t full = qwen3 ? config.integer_or("max_window_layers", 28) : 0;
  for (std::int64_t i = 0; i < layers; ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (listed && qwen3 ? types[at] == kSliding : i >= full) windows[at] = window;
  }
  return windows;
}

void collect_end_tokens(const JsonObject& config, std::vector<std::int64_t>& out) {
  if (!config.has("eos_token_id")) return;
  const Json& value = config.at("eos_token_id");
  for (const Json& id : value.is_array() ? value : Json::array({value})) {
    if (!id.is_number_integer()) config.wrong("eos_token_id", "an integer or a list of them");
    out.push_back(id.get<std::int64_t>());
  }
}

void require(const JsonObject& config, const char* key, bool supported, const std::string& expected) {
  if (!supported) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: field {} is {}, expected {}", config.where(), key, config.at(key).dump(), expected));
  }
}

// Where a field is left out it is what the reference implementation's configuration of the architecture has, here and
// below.
LatentConfig parse_latent(const JsonObject& config) {
  LatentConfig latent;
  const bool whole = config.json().contains("q_lora_rank") && !config.has("q_lora_rank");
  latent.q_rank = whole ? 0 : config.bounded_or("q_lora_rank", kDimensionBounds, 768);
  latent.rank = config.bounded_or("kv_lora_rank", kDimensionBounds, 512);
  latent.nope_dim = config.bounded_or("qk_nope_head_dim", {1, kHeadDimBounds.high}, 192);
  latent.rope_dim = config.bounded_or(config.either("qk_rope_head_dim", "head_dim"), kHeadDimBounds, 64);
  latent.value_dim = config.bounded_or("v_head_dim", {1, kHeadDimBounds.high}, 256);
  latent.interleaved = config.boolean_or("rope_interleave", true);
  if (latent.rope_dim % 2 != 0) config.wrong("qk_rope_head_dim", "an even number");
  return latent;
}

// usual: what is left out.
void parse_experts(const JsonObject& config, const char* count, const MoeConfig& usual, MoeConfig& moe) {
  moe.experts = config.bounded_or(count, kExpertBounds, usual.experts);
  moe.top_k = config.bounded_or("num_experts_per_tok", {1, moe.experts}, usual.top_k);
  if (moe.top_k > moe.experts)
    config.wrong("num_experts_per_tok",
                 fmt::format("no more than {} experts, as it is {} where it is left out", moe.experts, moe.top_k));
  moe.intermediate = config.bounded_or("moe_intermediate_size", kDimensionBounds, usual.intermediate);
}

MoeConfig parse_glm_moe(const JsonObject& config) {
  MoeConfig moe;
  parse_experts(config, config.either("n_routed_experts", "num_local_experts"),
                {.experts = 64, .top_k = 4, .intermediate = 1536}, moe);
  moe.shared = config.bounded_or("n_shared_experts", {0, kExpertBounds.high}, 1);
  moe.groups = config.bounded_or("n_group", {1, moe.experts}, 1);
  moe.top_groups = config.bounded_or("topk_group", {1, moe.groups}, 1);
  if (moe.experts % moe.groups != 0)
    config.wrong("n_group", fmt::format("a divisor of n_routed_experts {}", moe.experts));
  if (moe.groups > 1 && moe.experts / moe.groups < 2) config.wrong("n_group", "groups of at least 2 experts");
  if (moe.top_k > moe.experts / moe.groups * moe.top_groups) {
    config.wrong("num_experts_per_tok", "no more experts than topk_group groups have");
  }
  require(config, "topk_method", config.string_or("topk_method", "noaux_tc") == "noaux_tc", "noaux_tc");
  require(config, "scoring_func", config.string_or("scoring_func", "sigmoid") == "sigmoid", "sigmoid");
  moe.scoring = RouterScoring::kSigmoid;
  moe.router_bias = true;
  moe.normalize = config.boolean_or("norm_topk_prob", true);
  moe.scale = config.number_or("routed_scaling_factor", 1.8);
  return moe;
}

// Which layers have experts: a list (transformers 5), or the leading dense layers.
std::vector<bool> parse_glm_sparse(const JsonObject& config, std::int64_t layers) {
  std::vector<bool> sparse(static_cast<std::size_t>(layers));
  if (!config.has("mlp_layer_types")) {
    const std::int64_t dense = config.bounded_or("first_k_dense_replace", {0, layers}, 1);
    std::fill(sparse.begin() + dense, sparse.end(), true);
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

// Sizes that are in bounds each may not be together.
void check_experts(const JsonObject& config, const ModelConfig& model) {
  constexpr std::int64_t kMostExperts = std::int64_t{1} << 18;  // of all layers
  if (model.moe.experts * model.layers > kMostExperts)
    config.wrong("num_hidden_layers", fmt::format("no more than {} experts in all layers", kMostExperts));
  if (model.moe.shared * model.moe.intermediate > kMaxDimension)
    config.wrong("n_shared_experts", fmt::format("no more than {} neurons of all", kMaxDimension));
}

MoeConfig parse_qwen_moe(const JsonObject& config) {
  MoeConfig moe;
  parse_experts(config, config.either("num_local_experts", "num_experts"),  // transformers 5, 4
                {.experts = 128, .top_k = 8, .intermediate = 768}, moe);
  moe.normalize = config.boolean_or("norm_topk_prob", false);
  return moe;
}

std::vector<bool> parse_qwen_sparse(const JsonObject& config, std::int64_t layers) {
  const std::int64_t step = config.bounded_or("decoder_sparse_step", kDimensionBounds, 1);
  std::vector<bool> sparse(static_cast<std::size_t>(layers));
  for (std::int64_t i = 0; i < layers; ++i) sparse[static_cast<std::size_t>(i)] = (i + 1) % step == 0;
  if (!config.has("mlp_only_layers")) return sparse;
  if (!config.at("mlp_only_layers").is_array()) config.wrong("mlp_only_layers", "a list of layer numbers");
  for (const Json& layer : config.at("mlp_only_layers")) {
    if (!layer.is_number_integer()) config.wrong("mlp_only_layers", "a list of layer numbers");
    const auto number = layer.get<std::int64_t>();
    if (number >= 0 && number < layers) sparse[static_cast<std::size_t>(number)] = false;
  }
  return sparse;
}

// What the reference implementation's configurations have where a field is left out.
struct Defaults {
  std::string_view architecture;
  std::int64_t vocab;
  std::int64_t hidden;
  std::int64_t intermediate;
  std::int64_t layers;
  std::int64_t heads;
  std::optional<std::int64_t> kv_heads;  // nothing: as many as heads
  std::int64_t positions;
  double rms_eps;
  std::optional<std::int64_t> end_token;
};
constexpr std::array<Defaults, 4> kDefaults{
    {{"llama", 32000, 4096, 11008, 32, 32, std::nullopt, 2048, 1e-6, 2},
     {"qwen3", 151936, 4096, 22016, 32, 32, 32, 32768, 1e-6, std::nullopt},
     {"qwen3_moe", 151936, 2048, 6144, 24, 32, 4, 32768, 1e-6, std::nullopt},
     {"glm4_moe_lite", 154880, 2048, 10240, 47, 20, std::nullopt, 202752, 1e-5, 1}}};

// Of an architecture that is known.
const Defaults& defaults_of(const std::string& architecture) {
  return *std::find_if(kDefaults.begin(), kDefaults.end(),
                       [&](const Defaults& known) { return known.architecture == architecture; });
}

// Left out, not null, which the reference implementation does not take.
void parse_sizes(const JsonObject& config, const Defaults& defaults, ModelConfig& out) {
  const auto size = [&](const char* key, Bounds bounds, std::int64_t usual) {
    return config.json().contains(key) ? config.bounded(key, bounds) : usual;
  };
  out.vocab = size("vocab_size", kDimensionBounds, defaults.vocab);
  out.hidden = size("hidden_size", kDimensionBounds, defaults.hidden);
  out.intermediate = size("intermediate_size", kDimensionBounds, defaults.intermediate);
  out.layers = size("num_hidden_layers", kLayerBounds, defaults.layers);
  out.heads = size("num_attention_heads", kHeadBounds, defaults.heads);
  const bool left_out = !config.json().contains("num_key_value_heads");
  out.kv_heads = config.bounded_or("num_key_value_heads", kHeadBounds,
                                   left_out ? defaults.kv_heads.value_or(out.heads) : out.heads);
}

// Windows and rotations.
void parse_positions(const JsonObject& config, ModelConfig& out) {
  out.windows = parse_windows(config, out.model_type, out.layers);
  out.rope = parse_rope(config, parse_layer_types(config, out.layers), static_cast<double>(out.max_positions));
  const auto pairs = static_cast<std::size_t>((out.latent.rank > 0 ? out.latent.rope_dim : out.head_dim) / 2);
  for (const std::vector<float>* const factors : {&out.rope.short_factors, &out.rope.long_factors}) {
    if (out.rope.type == RopeType::kLongrope && factors->size() != pairs)
      config.wrong("head_dim",
                   fmt::format("{}, as many as long_factor and short_factor have, twice", 2 * factors->size()));
  }
}

bool same_bytes(const Weight& a, const Weight& b) {
  const auto same = [](std::span<const std::byte> x, std::span<const std::byte> y) {
    return std::equal(x.begin(), x.end(), y.begin(), y.end());
  };
  if (a.packed() != b.packed()) return false;
  if (!a.packed()) {
    const auto& x = std::get<DenseView>(a.view);
    const auto& y = std::get<DenseView>(b.view);
    return x.dtype == y.dtype && x.shape == y.shape && same(x.bytes, y.bytes);
  }
  const auto& x = std::get<PackedView>(a.view);
  const auto& y = std::get<PackedView>(b.view);
  return x.spec == y.spec && x.rows == y.rows && x.cols == y.cols && x.global_scale == y.global_scale &&
         same(x.codes, y.codes) && same(x.scales, y.scales) && same(x.zeros, y.zeros) &&
         same(x.positions, y.positions) && same(x.sub_scales, y.sub_scales) && same(x.sub_minima, y.sub_minima);
}

}  // namespace

std::string prediction_prefix(const ModelConfig& config, std::int64_t index) {
  return fmt::format("{}{}.", kLayers, config.layers + index);
}

std::int64_t prediction_layers(const ModelConfig& config, const Checkpoint& checkpoint) {
  std::string found;
  std::string missing;
  for (std::int64_t i = 0; i < config.mtp_layers; ++i) {
    const std::string name = prediction_prefix(config, i) + "eh_proj.weight";
    (checkpoint.find(name) != nullptr ? found : missing) = name;
  }
  if (found.empty()) return 0;
  if (missing.empty()) return config.mtp_layers;
  throw Error(ErrorCode::kNotFound, fmt::format("{}: there is tensor {}, but no {}, and the configuration tells of {} "
                                                "layers that predict",
                                                checkpoint.where(), found, missing, config.mtp_layers));
}

namespace {

struct PredictionCopy {
  std::string name;
  const char* of;
};
std::vector<PredictionCopy> prediction_copies(const ModelConfig& config) {
  std::vector<PredictionCopy> out;
  for (std::int64_t i = 0; i < config.mtp_layers; ++i) {
    const std::string prefix = prediction_prefix(config, i);
    out.push_back({prefix + "embed_tokens.weight", kEmbeddingWeight});
    out.push_back({prefix + "shared_head.head.weight", config.tied ? kEmbeddingWeight : kHeadWeight});
  }
  return out;
}

}  // namespace

bool is_prediction_copy(const ModelConfig& config, const std::string& weight) {
  const std::vector<PredictionCopy> copies = prediction_copies(config);
  return std::any_of(copies.begin(), copies.end(), [&](const PredictionCopy& copy) { return copy.name == weight; });
}

void require_same_copies(const ModelConfig& config, const Checkpoint& checkpoint) {
  ThreadPool pool(1);
  for (const PredictionCopy& copy : prediction_copies(config)) {
    if (checkpoint.find(copy.name) == nullptr || checkpoint.find(copy.of) == nullptr) continue;
    if (same_bytes(checkpoint.load(copy.name, pool), checkpoint.load(copy.of, pool))) continue;
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: tensor {} has other numbers than {}, which a layer that predicts has in common with "
                            "the model",
                            checkpoint.where(copy.name), copy.name, copy.of));
  }
}

std::vector<std::string> known_architectures() {
  std::vector<std::string> names;
  for (const Defaults& known : kDefaults) names.emplace_back(known.architecture);
  return names;
}

ModelConfig parse_model_config(const Json& json, const Json& generation, const std::string& where) {
  const JsonObject config(json, where);
  ModelConfig out;
  out.model_type = config.string("model_type");
  const std::vector<std::string> known = known_architectures();
  if (std::find(known.begin(), known.end(), out.model_type) == known.end()) {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: architecture {} is not one we implement; known: {}", where,
                                                     out.model_type, fmt::join(known, ", ")));
  }
  check_config_keys(config);
  const bool qwen_moe = out.model_type == "qwen3_moe";
  const bool glm = out.model_type == "glm4_moe_lite";
  out.qk_norm = out.model_type == "qwen3" || qwen_moe;
  const Defaults& defaults = defaults_of(out.model_type);
  parse_sizes(config, defaults, out);
  if (glm) out.latent = parse_latent(config);
  out.head_dim = out.hidden / out.heads;
  if (glm) {
    out.head_dim = out.latent.nope_dim + out.latent.rope_dim;
  } else if (config.has("head_dim")) {
    out.head_dim = config.bounded("head_dim", kHeadDimBounds);
  } else if (out.model_type == "qwen3") {
    out.head_dim = 128;
  }
  out.max_positions = config.bounded_or("max_position_embeddings", kPositionBounds, defaults.positions);
  if (out.heads % out.kv_heads != 0) {
    config.wrong("num_key_value_heads", fmt::format("a divisor of num_attention_heads {}", out.heads));
  }
  if (!glm && (out.head_dim < 2 || out.head_dim % 2 != 0)) config.wrong("head_dim", "an even number");
  out.rms_eps = config.number_or("rms_norm_eps", defaults.rms_eps);
  if (!(out.rms_eps >= 0) || !std::isfinite(out.rms_eps)) config.wrong("rms_norm_eps", "a number of at least 0");
  if (json.contains("tie_word_embeddings") && !config.has("tie_word_embeddings"))
    config.wrong("tie_word_embeddings", "true or false");  // as the reference implementation, which takes no null
  out.tied = config.boolean_or("tie_word_embeddings", false);
  out.attention_bias = config.boolean_or("attention_bias", false);
  // The reference implementations of the others have no such field: biases that a file has are refused by name.
  out.mlp_bias = out.model_type == "llama" && config.boolean_or("mlp_bias", false);
  const std::string activation = config.string_or("hidden_act", "silu");
  require(config, "hidden_act", activation == "silu" || activation == "swish", "silu or swish, which are one");
  parse_positions(config, out);
  if (glm) {
    out.moe = parse_glm_moe(config);
    out.sparse = parse_glm_sparse(config, out.layers);
    if (config.has("num_nextn_predict_layers"))
      out.mtp_layers = config.bounded("num_nextn_predict_layers", 0, kLayerBounds.high);
  } else if (qwen_moe) {
    out.moe = parse_qwen_moe(config);
    out.sparse = parse_qwen_sparse(config, out.layers);
  } else {
    out.sparse.assign(static_cast<std::size_t>(out.layers), false);
  }
  check_experts(config, out);
  collect_end_tokens(config, out.end_tokens);
  if (!json.contains("eos_token_id") && generation.is_null() && defaults.end_token)
    out.end_tokens.push_back(*defaults.end_token);
  if (!generation.is_null()) collect_end_tokens(JsonObject(generation, where + " (generation)"), out.end_tokens);
  return out;
}

ModelConfig read_model_config(const Checkpoint& checkpoint, const std::function<void(const std::string&)>& notice) {
  ModelConfig config = parse_model_config(checkpoint.config(), checkpoint.generation_config(), checkpoint.where());
  const Json types = checkpoint.config().value("layer_types", Json());
  if (notice && config.model_type != "qwen3" && types.is_array() &&
      std::find(types.begin(), types.end(), kSliding) != types.end())
    notice(fmt::format("{}: field layer_types has {}, which attention in {} does not go by", checkpoint.where(),
                       kSliding, config.model_type));
  if (!config.tied || checkpoint.find(kHeadWeight) == nullptr || checkpoint.find(kEmbeddingWeight) == nullptr)
    return config;
  // Other bytes may be the same numbers; then it makes no difference which are used.
  ThreadPool pool(1);
  config.tied = same_bytes(checkpoint.load(kHeadWeight, pool), checkpoint.load(kEmbeddingWeight, pool));
  if (!config.tied && notice)
    notice(fmt::format("{}: tie_word_embeddings is true, but {} is not {}, and is used", checkpoint.where(kHeadWeight),
                       kHeadWeight, kEmbeddingWeight));
  return config;
}

float latent_softmax_scale(const ModelConfig& config) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(config.latent.nope_dim + config.latent.rope_dim));
  const double mscale = config.rope.mscale_all_dim == 0 ? 1.0 : yarn_mscale(config.rope, config.rope.mscale_all_dim);
  return static_cast<float>(scale * mscale * mscale);
}

}  // namespace metal_marlin
