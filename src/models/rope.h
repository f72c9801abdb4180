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
  double rotated_part = 1;  // of a head, from the first element on
  bool truncate = true;
  std::vector<float> short_factors;  // divisors of each pair's frequency, for sequences up to the original length
  std::vector<float> long_factors;   // and for longer ones

  // Whether angles depend on the length of the sequence.
  [[nodiscard]] bool by_length() const { return type == RopeType::kDynamic || type == RopeType::kLongrope; }
  // Elements that pairs are made of, in heads of so many. The proportional type pairs all of them, some by no angle.
  [[nodiscard]] std::int64_t rotated_dim(std::int64_t head_dim) const {
    return type == RopeType::kProportional ? head_dim
                                           : static_cast<std::int64_t>(static_cast<double>(head_dim) * rotated_part);
  }
};

// What the reference implementation of an architecture does with partial_rotary_factor.
enum class PartialRotation : std::uint8_t {
  kIgnored,  // by its default type, and fails with others
  kFails,
  kDone
};

// What differs between architectures.
struct RopeRules {
  double theta = 10000;  // here and below: where it is left out
  double part = 1;
  PartialRotation partial = PartialRotation::kIgnored;
  std::optional<double> original_max_positions = {};  // nothing: the model's context
  bool longrope_names = false;                        // "su" and "yarn" are old names of longrope
  std::span<const std::string_view> also = {};  // fields among the parameters that are read elsewhere, or by nobody
};

// config: config.json; layer_types: those that the model's layers are of, or none. max_positions: the model's context.
// \throws Error naming the field.
RopeConfig parse_rope(const JsonObject& config, const std::vector<std::string>& layer_types, double max_positions,
                      const RopeRules& rules = {});
// The same of layers of one type, where the parameters of each are fields of rope_parameters. Old files have the
// common fields, of which rope_scaling is for full attention alone and `theta_key` the other type's base.
RopeConfig parse_rope_of(const JsonObject& config, const std::string& layer_type, double max_positions,
                         const RopeRules& rules, const char* theta_key);

// Angle per position step of each pair of dimensions of a head, [out.size()], in a sequence of `length` positions.
void rope_frequencies(const RopeConfig& rope, std::int64_t length, std::span<float> out);
// What cos and sin are multiplied by.
float rope_attention_scale(const RopeConfig& rope);
// YaRN's temperature for a weight of it.
double yarn_mscale(const RopeConfig& rope, double weight);

}  // namespace metal_marlin
