#include "models/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
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
    rope.mscale_all_dim = json.number_or("mscale_all_dim", 0);
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

}  // namespace

std::vector<std::string> known_architectures() {
  return {"llama", "qwen3"};
}

ModelConfig parse_model_config(const Json& json, const Json& generation, const std::string& where) {
  const JsonObject config(json, where);
  ModelConfig out;
  out.model_type = config.string("model_type");
  if (out.model_type != "llama" && out.model_type != "qwen3") {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: architecture {} is not one we implement; known: {}", where,
                                                     out.model_type, fmt::join(known_architectures(), ", ")));
  }
  const bool qwen3 = out.model_type == "qwen3";
  out.vocab = config.bounded("vocab_size", 1, kMaxDimension);
  out.hidden = config.bounded("hidden_size", 1, kMaxDimension);
  out.intermediate = config.bounded("intermediate_size", 1, kMaxDimension);
  out.layers = config.bounded("num_hidden_layers", 1, 4096);
  out.heads = config.bounded("num_attention_heads", 1, 65536);
  out.kv_heads = config.has("num_key_value_heads") ? config.bounded("num_key_value_heads", 1, 65536) : out.heads;
  out.head_dim = config.has("head_dim") ? config.bounded("head_dim", 2, 4096) : (qwen3 ? 128 : out.hidden / out.heads);
  out.max_positions =
      config.has("max_position_embeddings") ? config.bounded("max_position_embeddings", 1, 1 << 30) : 2048;
  if (out.heads % out.kv_heads != 0) {
    config.wrong("num_key_value_heads", fmt::format("a divisor of num_attention_heads {}", out.heads));
  }
  if (out.head_dim < 2 || out.head_dim % 2 != 0) config.wrong("head_dim", "an even number");
  out.rms_eps = config.number_or("rms_norm_eps", 1e-6);
  out.tied = config.boolean_or("tie_word_embeddings", false);
  out.attention_bias = config.boolean_or("attention_bias", false);
  out.mlp_bias = config.boolean_or("mlp_bias", false);
  out.qk_norm = qwen3;
  require(config, "hidden_act", config.string_or("hidden_act", "silu") == "silu", "silu");
  require(config, "partial_rotary_factor", config.number_or("partial_rotary_factor", 1) == 1, "1");
  out.windows = parse_windows(config, out.layers);
  out.rope = parse_rope(config);
  collect_end_tokens(config, out.end_tokens);
  if (!generation.is_null()) collect_end_tokens(JsonObject(generation, where + " (generation)"), out.end_tokens);
  return out;
}

float rope_attention_scale(const RopeConfig& rope) {
  if (rope.type != RopeType::kYarn) return 1;
  if (rope.attention_factor > 0) return static_cast<float>(rope.attention_factor);
  const auto mscale = [&](double weight) {
    return rope.factor <= 1 ? 1.0 : 0.1 * weight * std::log(rope.factor) + 1.0;
  };
  if (rope.mscale != 0 && rope.mscale_all_dim != 0)
    return static_cast<float>(mscale(rope.mscale) / mscale(rope.mscale_all_dim));
  return static_cast<float>(mscale(1));
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
