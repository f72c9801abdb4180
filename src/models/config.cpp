#include "models/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::int64_t kMaxDimension = std::int64_t{1} << 24;

// transformers 5 keeps everything in rope_parameters; before, rope_theta stood
// alone and rope_scaling held the rest, its type under "type" or "rope_type".
RopeConfig parse_rope(const JsonObject& config) {
  RopeConfig rope;
  rope.theta = config.number_or("rope_theta", 10000);
  const char* const key = config.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (!config.has(key)) return rope;
  const JsonObject json = config.object(key);
  rope.theta = json.number_or("rope_theta", rope.theta);
  const std::string type = json.string_or("rope_type", json.string_or("type", "default"));
  rope.original_max_positions = json.number_or(
      "original_max_position_embeddings",
      config.number_or("original_max_position_embeddings", config.number_or("max_position_embeddings", 8192)));
  if (type == "default") return rope;
  rope.factor = json.number("factor");
  rope.mscale_all_dim = json.number_or("mscale_all_dim", 0);
  if (type == "linear") {
    rope.type = RopeType::kLinear;
  } else if (type == "llama3") {
    rope.type = RopeType::kLlama3;
    rope.low_freq_factor = json.number("low_freq_factor");
    rope.high_freq_factor = json.number("high_freq_factor");
  } else if (type == "yarn") {
    rope.type = RopeType::kYarn;
    rope.beta_fast = json.number_or("beta_fast", 32);
    rope.beta_slow = json.number_or("beta_slow", 1);
    rope.attention_factor = json.number_or("attention_factor", 0);
    rope.mscale = json.number_or("mscale", 0);
    rope.truncate = json.boolean_or("truncate", true);
  } else {
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format("{}: field rope_type is '{}', expected default, linear, llama3 or yarn", json.where(), type));
  }
  if (!(rope.factor > 0)) json.wrong("factor", "a positive number");
  return rope;
}

std::vector<std::int64_t> parse_windows(const JsonObject& config, std::int64_t layers) {
  std::vector<std::int64_t> windows(static_cast<std::size_t>(layers), 0);
  const bool allowed = config.boolean_or("use_sliding_window", config.has("layer_types"));
  if (!config.has("sliding_window") || !allowed) {
    if (config.has("layer_types")) {
      for (const Json& type : config.at("layer_types")) {
        if (type != "full_attention")
          config.wrong("sliding_window", "a window, as layer_types has layers other than full_attention");
      }
    }
    return windows;
  }
  const std::int64_t window = config.bounded("sliding_window", 1, kMaxDimension);
  if (config.has("layer_types")) {
    const Json& types = config.at("layer_types");
    if (!types.is_array() || types.size() != windows.size())
      config.wrong("layer_types", fmt::format("{} entries", layers));
    for (std::size_t i = 0; i < windows.size(); ++i) {
      if (types[i] == "sliding_attention") {
        windows[i] = window;
      } else if (types[i] != "full_attention") {
        config.wrong("layer_types", "full_attention or sliding_attention entries");
      }
    }
    return windows;
  }
  const std::int64_t full = config.integer_or("max_window_layers", 0);
  for (std::int64_t i = full; i < layers; ++i) windows[static_cast<std::size_t>(i)] = window;
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

LatentConfig parse_latent(const JsonObject& config) {
  LatentConfig latent;
  latent.q_rank = config.has("q_lora_rank") ? config.bounded("q_lora_rank", 1, kMaxDimension) : 0;
  latent.rank = config.bounded("kv_lora_rank", 1, kMaxDimension);
  latent.nope_dim = config.bounded("qk_nope_head_dim", 1, 4096);
  latent.rope_dim = config.bounded("qk_rope_head_dim", 2, 4096);
  latent.value_dim = config.bounded("v_head_dim", 1, 4096);
  latent.interleaved = config.boolean_or("rope_interleave", true);
  if (latent.rope_dim % 2 != 0) config.wrong("qk_rope_head_dim", "an even number");
  return latent;
}

void parse_experts(const JsonObject& config, const char* count, MoeConfig& moe) {
  moe.experts = config.bounded(count, 1, 65536);
  moe.top_k = config.bounded("num_experts_per_tok", 1, moe.experts);
  moe.intermediate = config.bounded("moe_intermediate_size", 1, kMaxDimension);
}

MoeConfig parse_glm_moe(const JsonObject& config) {
  MoeConfig moe;
  parse_experts(config, "n_routed_experts", moe);
  moe.shared = config.has("n_shared_experts") ? config.bounded("n_shared_experts", 0, 65536) : 0;
  moe.groups = config.has("n_group") ? config.bounded("n_group", 1, moe.experts) : 1;
  moe.top_groups = config.has("topk_group") ? config.bounded("topk_group", 1, moe.groups) : 1;
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
  moe.scale = config.number_or("routed_scaling_factor", 1);
  return moe;
}

// Which layers have experts: a list (transformers 5), or the leading dense layers.
std::vector<bool> parse_glm_sparse(const JsonObject& config, std::int64_t layers) {
  std::vector<bool> sparse(static_cast<std::size_t>(layers));
  if (!config.has("mlp_layer_types")) {
    const std::int64_t dense = config.bounded("first_k_dense_replace", 0, layers);
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

MoeConfig parse_qwen_moe(const JsonObject& config) {
  MoeConfig moe;
  parse_experts(config, config.has("num_local_experts") ? "num_local_experts" : "num_experts",
                moe);  // transformers 5, 4
  moe.normalize = config.boolean_or("norm_topk_prob", false);
  return moe;
}

std::vector<bool> parse_qwen_sparse(const JsonObject& config, std::int64_t layers) {
  const std::int64_t step =
      config.has("decoder_sparse_step") ? config.bounded("decoder_sparse_step", 1, kMaxDimension) : 1;
  std::vector<bool> sparse(static_cast<std::size_t>(layers));
  for (std::int64_t i = 0; i < layers; ++i) sparse[static_cast<std::size_t>(i)] = (i + 1) % step == 0;
  if (!config.has("mlp_only_layers")) return sparse;
  for (const Json& layer : config.at("mlp_only_layers")) {
    if (!layer.is_number_integer()) config.wrong("mlp_only_layers", "a list of layer numbers");
    const auto number = layer.get<std::int64_t>();
    if (number >= 0 && number < layers) sparse[static_cast<std::size_t>(number)] = false;
  }
  return sparse;
}

}  // namespace

bool is_prediction_weight(const ModelConfig& config, const std::string& weight) {
  for (std::int64_t i = 0; i < config.prediction_layers; ++i) {
    if (weight.starts_with(fmt::format("model.layers.{}.", config.layers + i))) return true;
  }
  return false;
}

std::vector<std::string> known_architectures() {
  return {"llama", "qwen3", "qwen3_moe", "glm4_moe_lite"};
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
  const bool qwen_moe = out.model_type == "qwen3_moe";
  const bool glm = out.model_type == "glm4_moe_lite";
  out.qk_norm = out.model_type == "qwen3" || qwen_moe;
  out.vocab = config.bounded("vocab_size", 1, kMaxDimension);
  out.hidden = config.bounded("hidden_size", 1, kMaxDimension);
  out.intermediate = config.bounded("intermediate_size", 1, kMaxDimension);
  out.layers = config.bounded("num_hidden_layers", 1, 4096);
  out.heads = config.bounded("num_attention_heads", 1, 65536);
  out.kv_heads = config.has("num_key_value_heads") ? config.bounded("num_key_value_heads", 1, 65536) : out.heads;
  if (glm) out.latent = parse_latent(config);
  out.head_dim = out.hidden / out.heads;
  if (glm) {
    out.head_dim = out.latent.nope_dim + out.latent.rope_dim;
  } else if (config.has("head_dim")) {
    out.head_dim = config.bounded("head_dim", 2, 4096);
  } else if (out.model_type == "qwen3") {
    out.head_dim = 128;
  }
  out.max_positions =
      config.has("max_position_embeddings") ? config.bounded("max_position_embeddings", 1, 1 << 30) : 2048;
  if (out.heads % out.kv_heads != 0) {
    config.wrong("num_key_value_heads", fmt::format("a divisor of num_attention_heads {}", out.heads));
  }
  if (!glm && (out.head_dim < 2 || out.head_dim % 2 != 0)) config.wrong("head_dim", "an even number");
  out.rms_eps = config.number_or("rms_norm_eps", 1e-6);
  out.tied = config.boolean_or("tie_word_embeddings", false);
  out.attention_bias = config.boolean_or("attention_bias", false);
  out.mlp_bias = config.boolean_or("mlp_bias", false);
  require(config, "hidden_act", config.string_or("hidden_act", "silu") == "silu", "silu");
  require(config, "partial_rotary_factor", config.number_or("partial_rotary_factor", 1) == 1, "1");
  out.windows = parse_windows(config, out.layers);
  out.rope = parse_rope(config);
  if (glm) {
    out.moe = parse_glm_moe(config);
    out.sparse = parse_glm_sparse(config, out.layers);
    if (config.has("num_nextn_predict_layers"))
      out.prediction_layers = config.bounded("num_nextn_predict_layers", 0, 4096);
  } else if (qwen_moe) {
    out.moe = parse_qwen_moe(config);
    out.sparse = parse_qwen_sparse(config, out.layers);
  } else {
    out.sparse.assign(static_cast<std::size_t>(out.layers), false);
  }
  collect_end_tokens(config, out.end_tokens);
  if (!generation.is_null()) collect_end_tokens(JsonObject(generation, where + " (generation)"), out.end_tokens);
  return out;
}

namespace {
double yarn_mscale(const RopeConfig& rope, double weight) {
  return rope.factor <= 1 ? 1.0 : 0.1 * weight * std::log(rope.factor) + 1.0;
}
}  // namespace

float rope_attention_scale(const RopeConfig& rope) {
  if (rope.type != RopeType::kYarn) return 1;
  if (rope.attention_factor > 0) return static_cast<float>(rope.attention_factor);
  if (rope.mscale != 0 && rope.mscale_all_dim != 0)
    return static_cast<float>(yarn_mscale(rope, rope.mscale) / yarn_mscale(rope, rope.mscale_all_dim));
  return static_cast<float>(yarn_mscale(rope, 1));
}

float latent_softmax_scale(const ModelConfig& config) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(config.latent.nope_dim + config.latent.rope_dim));
  const double mscale = config.rope.mscale_all_dim == 0 ? 1.0 : yarn_mscale(config.rope, config.rope.mscale_all_dim);
  return static_cast<float>(scale * mscale * mscale);
}

std::vector<float> rope_frequencies(const RopeConfig& rope, std::int64_t head_dim) {
  const std::int64_t half = head_dim / 2;
  std::vector<float> frequencies(static_cast<std::size_t>(half));
  const auto dim = static_cast<double>(head_dim);
  // The dimension that turns `rotations` times within the original context.
  const auto correction = [&](double rotations) {
    return dim * std::log(rope.original_max_positions / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(rope.theta));
  };
  double low = correction(rope.beta_fast);
  double high = correction(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;
  for (std::int64_t i = 0; i < half; ++i) {
    const double base = 1.0 / static_cast<double>(std::pow(static_cast<float>(rope.theta),
                                                           static_cast<float>(2 * i) / static_cast<float>(head_dim)));
    double frequency = base;
    if (rope.type == RopeType::kLinear) {
      frequency = base / rope.factor;
    } else if (rope.type == RopeType::kLlama3) {
      const double wavelength = 2 * std::numbers::pi / base;
      const double smooth = (rope.original_max_positions / wavelength - rope.low_freq_factor) /
                            (rope.high_freq_factor - rope.low_freq_factor);
      if (wavelength > rope.original_max_positions / rope.low_freq_factor) {
        frequency = base / rope.factor;
      } else if (wavelength >= rope.original_max_positions / rope.high_freq_factor) {
        frequency = (1 - smooth) * base / rope.factor + smooth * base;
      }
    } else if (rope.type == RopeType::kYarn) {
      const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
      frequency = base / rope.factor * ramp + base * (1 - ramp);
    }
    frequencies[static_cast<std::size_t>(i)] = static_cast<float>(frequency);
  }
  return frequencies;
}

}  // namespace metal_marlin
