// What a decoder-only transformer is, as config.json states it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/json.h"

namespace metal_marlin {

enum class RopeType : std::uint8_t { kDefault, kLinear, kLlama3, kYarn };

// Rotary position embedding (arXiv 2104.09864) and its context extensions:
// linear interpolation (2306.15595), YaRN (2309.00071), Llama 3.1's rule.
struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000;
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  double original_max_positions = 8192;
  double beta_fast = 32;
  double beta_slow = 1;
  double attention_factor = 0;  // 0: by the YaRN formula
  double mscale = 0;
  double mscale_all_dim = 0;
  bool truncate = true;
};

struct ModelConfig {
  std::string model_type;
  std::int64_t vocab = 0;
  std::int64_t hidden = 0;
  std::int64_t intermediate = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t max_positions = 0;
  double rms_eps = 1e-6;
  bool tied = false;            // lm_head shares the embedding
  bool attention_bias = false;  // q, k, v and o projections have biases
  bool mlp_bias = false;
  bool qk_norm = false;               // RMS norm over each head of q and k
  std::vector<std::int64_t> windows;  // per layer; 0: full attention
  RopeConfig rope;
  std::vector<std::int64_t> end_tokens;  // any of them ends a generation
};

// config: config.json; generation: generation_config.json, or null.
// \throws Error naming the field, or the known architectures.
ModelConfig parse_model_config(const Json& config, const Json& generation, const std::string& where);

// The architectures (model_type) we implement.
std::vector<std::string> known_architectures();

// Angle per position step of each pair of dimensions, [head_dim / 2].
std::vector<float> rope_frequencies(const RopeConfig& rope, std::int64_t head_dim);
// What cos and sin are multiplied by.
float rope_attention_scale(const RopeConfig& rope);

}  // namespace metal_marlin
