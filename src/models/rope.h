// Rotary position embedding (arXiv 2104.09864) and its extensions of the context: linear interpolation (2306.15595),
// dynamic NTK, YaRN (2309.00071), LongRoPE (2402.13753), Llama 3.1's rule, and rotation of a part of each head.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/json.h"

namespace metal_marlin {

enum class RopeType : std::uint8_t { kDefault, kLinear, kDynamic, kLlama3, kYarn, kLongrope, kProportional };

struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000;
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  double original_max_positions = 8192;
  double max_positions = 2048;  // from which on the dynamic type changes its angles
  double beta_fast = 32;
  double beta_slow = 1;
  std::optional<double> attention_factor;  // nothing: by the type's formula
  double mscale = 0;
  double mscale_all_dim = 0;
  double rotated_part = 1;  // of the pairs of a head, from the first on
  bool truncate = true;
  std::vector<float> short_factors;  // divisors of each pair's frequency, for sequences up to the original length
  std::vector<float> long_factors;   // and for longer ones

  // Whether angles depend on the length of the sequence.
  [[nodiscard]] bool by_length() const { return type == RopeType::kDynamic || type == RopeType::kLongrope; }
};

// config: config.json; layer_types: those that the model's layers are of. max_positions: the model's context.
// \throws Error naming the field.
RopeConfig parse_rope(const JsonObject& config, const std::vector<std::string>& layer_types, double max_positions);

// Angle per position step of each pair of dimensions of a head, [out.size()], in a sequence of `length` positions.
void rope_frequencies(const RopeConfig& rope, std::int64_t length, std::span<float> out);
// What cos and sin are multiplied by.
float rope_attention_scale(const RopeConfig& rope);
// YaRN's temperature for a weight of it.
double yarn_mscale(const RopeConfig& rope, double weight);

}  // namespace metal_marlin
