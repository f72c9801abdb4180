#include "models/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "base/parse_number.h"
#include "base/thread_pool.h"
#include "io/checkpoint.h"
#include "io/model_bounds.h"
#include "io/tensor_names.h"
#include "metal_marlin/error.h"
#include "models/config_keys.h"
#include "models/families/family.h"

namespace metal_marlin {
namespace {

void collect_end_tokens(const JsonObject& config, std::vector<std::int64_t>& out) {
  if (!config.has("eos_token_id")) return;
  const Json& value = config.at("eos_token_id");
  for (const Json& id : value.is_array() ? value : Json::array({value})) {
    if (!id.is_number_integer()) config.wrong("eos_token_id", "an integer or a list of them");
    out.push_back(id.get<std::int64_t>());
  }
}

// Sizes that are in bounds each may not be together.
void check_experts(const JsonObject& config, const ModelConfig& model) {
  constexpr std::int64_t kMostExperts = std::int64_t{1} << 18;  // of all layers
  if (model.moe.experts * model.layers > kMostExperts)
    config.wrong("num_hidden_layers", fmt::format("no more than {} experts in all layers", kMostExperts));
  if (model.moe.shared_intermediate > kMaxDimension)
    config.wrong("n_shared_experts", fmt::format("no more than {} neurons of all", kMaxDimension));
}

// Left out, not null, which the reference implementation does not take.
void parse_sizes(const JsonObject& config, const SizeDefaults& defaults, ModelConfig& out) {
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
  if (out.heads % out.kv_heads != 0)
    config.wrong("num_key_value_heads", fmt::format("a divisor of num_attention_heads {}", out.heads));
  const bool no_head_dim = !config.json().contains("head_dim");
  out.head_dim = config.bounded_or("head_dim", kHeadDimBounds,
                                   no_head_dim && defaults.head_dim ? *defaults.head_dim : out.hidden / out.heads);
  out.max_positions = config.bounded_or("max_position_embeddings", kPositionBounds, defaults.positions);
}

// What all architectures have beside sizes, and what most of them do.
void parse_common(const JsonObject& config, const Architecture& architecture, ModelConfig& out) {
  const std::string eps(architecture.eps_key);
  out.norm_eps = config.number_or(eps.c_str(), architecture.sizes.norm_eps);
  if (!(out.norm_eps >= 0) || !std::isfinite(out.norm_eps)) config.wrong(eps.c_str(), "a number of at least 0");
  if (config.json().contains("tie_word_embeddings") && !config.has("tie_word_embeddings"))
    config.wrong("tie_word_embeddings", "true or false");  // as the reference implementation, which takes no null
  out.tied = config.boolean_or("tie_word_embeddings", architecture.sizes.tied);
  const auto layers = static_cast<std::size_t>(out.layers);
  out.windows.assign(layers, 0);
  out.rotations.assign(layers, 0);
  out.sparse.assign(layers, false);
  out.heads_of.assign(layers, {out.head_dim, out.kv_heads});
  out.sources.resize(layers);
  std::iota(out.sources.begin(), out.sources.end(), 0);
  out.keys_are_values.assign(layers, false);
  out.intermediates.assign(layers, out.intermediate);
  out.attention_scale = 1.0 / std::sqrt(static_cast<double>(out.head_dim));
}

struct ActivationName {
  std::string_view name;
  GateActivation activation;
};
constexpr std::array<ActivationName, 4> kActivations{{{"silu", GateActivation::kSilu},
                                                      {"swish", GateActivation::kSilu},
                                                      {"gelu_pytorch_tanh", GateActivation::kGeluTanh},
                                                      {"gelu", GateActivation::kGelu}}};

GateActivation parse_activation(const JsonObject& config, const Architecture& architecture) {
  const std::string key(architecture.activation_key);
  const bool gemma = key == "hidden_activation";
  const std::string name = config.string_or(key.c_str(), gemma ? "gelu_pytorch_tanh" : "silu");
  const auto* const known = std::find_if(kActivations.begin(), kActivations.end(),
                                         [&](const ActivationName& entry) { return entry.name == name; });
  require(config, key.c_str(), known != kActivations.end(), "silu, swish, gelu or gelu_pytorch_tanh");
  return known->activation;
}

// Rotations where the architecture says nothing of them, and what all must be.
void finish_positions(const JsonObject& config, const Architecture& architecture, ModelConfig& out) {
  if (out.ropes.empty()) {
    const std::vector<std::string> types = architecture.by_layer_types ? layer_types_or_period(config, out.layers, 0)
                                                                       : listed_layer_types(config, out.layers);
    out.ropes = {parse_rope(config, types, static_cast<double>(out.max_positions))};
  }
  const bool latent = out.latent.rank > 0;
  if (!latent && (out.head_dim < 2 || out.head_dim % 2 != 0)) config.wrong("head_dim", "an even number");
  for (std::size_t i = 0; i < out.ropes.size(); ++i) {
    const RopeConfig& rope = out.ropes[i];
    const std::int64_t dim = rope.rotated_dim(rotated_heads_dim(out, i));
    if (dim < 2 || dim % 2 != 0)
      config.wrong("head_dim", fmt::format("one of which an even number of elements is rotated, not {}", dim));
    for (const std::vector<float>* const factors : {&rope.short_factors, &rope.long_factors}) {
      if (rope.type == RopeType::kLongrope && factors->size() != static_cast<std::size_t>(dim / 2))
        config.wrong("head_dim",
                     fmt::format("one of which {} elements are rotated, as many as long_factor and short_factor have, "
                                 "twice",
                                 2 * factors->size()));
    }
  }
}

const Architecture& architecture_of(const std::string& name, const std::string& where) {
  const Architecture* const found = find_architecture(name);
  if (found != nullptr) return *found;
  throw Error(ErrorCode::kUnsupported, fmt::format("{}: architecture {} is not one we implement; known: {}", where,
                                                   name, fmt::join(known_architectures(), ", ")));
}

// Fields that say something else than the reference implementation, and with it this one, computes.
void notice_unused(const JsonObject& config, const Architecture& architecture,
                   const std::function<void(const std::string&)>& notice) {
  const auto shown = [&](const auto& key) {
    return config.at(std::string(key).c_str()).dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  const Json types = config.json().value("layer_types", Json());
  if (!architecture.by_layer_types && types.is_array() &&
      std::find(types.begin(), types.end(), kSlidingLayer) != types.end())
    notice(fmt::format("{}: field layer_types has {}, which attention in {} does not go by", config.where(),
                       kSlidingLayer, architecture.name));
  for (const FieldNames& names : architecture.other_names) {
    if (config.has(names.field) && config.has(names.other) && config.at(names.field) != config.at(names.other))
      notice(fmt::format("{}: field {} is {}, and counts in the place of {}, which is {}", config.where(), names.other,
                         shown(names.other), names.field, shown(names.field)));
  }
  for (const NeutralField& field : architecture.unread) {
    const std::string key(field.key);
    if (config.has(key.c_str()) && shown(key) != field.value)
      notice(fmt::format("{}: field {} is {}, which {} does not go by: there it is {}", config.where(), key, shown(key),
                         architecture.name, field.value));
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

std::int64_t rotated_heads_dim(const ModelConfig& config, std::size_t rope) {
  if (config.latent.rank > 0) return config.latent.rope_dim;
  for (std::size_t i = 0; i < config.rotations.size(); ++i) {
    if (config.rotations[i] == static_cast<int>(rope)) return config.heads_of[i].head_dim;
  }
  return config.head_dim;
}

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
  for (const Architecture* const known : architectures()) names.emplace_back(known->name);
  return names;
}

namespace {

ModelConfig parse_architecture(const JsonObject& config, const Architecture& architecture) {
  check_config_keys(config, architecture);
  ModelConfig out;
  out.model_type = architecture.name;
  parse_sizes(config, architecture.sizes, out);
  parse_common(config, architecture, out);
  out.activation = parse_activation(config, architecture);
  architecture.describe(config, out);
  if (out.moe.experts > 0 && out.moe.activation != out.activation) {
    const std::string key(architecture.activation_key);
    require(config, key.c_str(), out.activation == GateActivation::kSilu, "silu or swish, as it has experts");
  }
  finish_positions(config, architecture, out);
  check_experts(config, out);
  return out;
}

}  // namespace

ModelConfig parse_model_config(const Json& json, const Json& generation, const std::string& where) {
  const JsonObject config(json, where);
  const Architecture* architecture = &architecture_of(config.string("model_type"), where);
  ModelConfig out;
  if (!architecture->within.empty()) {
    check_config_keys(config, *architecture);
    const bool tied = config.boolean_or("tie_word_embeddings", true);  // as all of them have it
    const JsonObject inner = config.object(std::string(architecture->within).c_str());
    architecture = &architecture_of(inner.string_or("model_type", std::string(architecture->inner)), inner.where());
    out = parse_architecture(inner, *architecture);
    out.tied = tied;
    if (!json.contains("eos_token_id")) collect_end_tokens(inner, out.end_tokens);
  } else {
    out = parse_architecture(config, *architecture);
  }
  collect_end_tokens(config, out.end_tokens);
  if (!json.contains("eos_token_id") && generation.is_null() && out.end_tokens.empty())
    out.end_tokens = architecture->end_tokens;
  if (!generation.is_null()) collect_end_tokens(JsonObject(generation, where + " (generation)"), out.end_tokens);
  return out;
}

namespace {

// Of a model that the text lies within: what is left out.
void notice_other_parts(const Checkpoint& checkpoint, const std::function<void(const std::string&)>& notice) {
  const std::string name = JsonObject(checkpoint.config(), checkpoint.where()).string("model_type");
  if (find_architecture(name)->within.empty()) return;
  constexpr std::array<std::string_view, 6> kText{kLayers,       "model.embed_tokens.", "model.embed_tokens_per_layer.",
                                                  "model.norm.", "model.per_layer_",    "lm_head."};
  std::string first;
  std::int64_t others = 0;
  for (const WeightInfo& info : checkpoint.weights()) {
    if (std::any_of(kText.begin(), kText.end(), [&](std::string_view text) { return info.name.starts_with(text); }))
      continue;
    if (others++ == 0) first = info.name;
  }
  if (others > 0)
    notice(fmt::format("{}: of {}, the text is run: {} tensors of its other parts, such as {}, are left out",
                       checkpoint.where(), name, others, first));
}

}  // namespace

ModelConfig read_model_config(const Checkpoint& checkpoint, const std::function<void(const std::string&)>& notice) {
  ModelConfig config = parse_model_config(checkpoint.config(), checkpoint.generation_config(), checkpoint.where());
  if (notice) {
    notice_other_parts(checkpoint, notice);
    const JsonObject whole(checkpoint.config(), checkpoint.where());
    const std::string within(find_architecture(whole.string("model_type"))->within);
    notice_unused(within.empty() ? whole : whole.object(within.c_str()), *find_architecture(config.model_type), notice);
  }
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
  const RopeConfig& rope = config.ropes.front();
  const double mscale = rope.mscale_all_dim == 0 ? 1.0 : yarn_mscale(rope, rope.mscale_all_dim);
  return static_cast<float>(scale * mscale * mscale);
}

}  // namespace metal_marlin
