// What config.json says of an architecture: the sizes that it has where they are left out, the fields that it alone
// has, and its traits. One file a family of architectures; families.cpp lists them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"
#include "models/config.h"

namespace metal_marlin {

// What the reference implementation's configurations have where a field is left out.
struct SizeDefaults {
  std::int64_t vocab;
  std::int64_t hidden;
  std::int64_t intermediate;
  std::int64_t layers;
  std::int64_t heads;
  std::optional<std::int64_t> kv_heads;  // nothing: as many as heads
  std::optional<std::int64_t> head_dim;  // nothing: hidden / heads
  std::int64_t positions;
  double norm_eps;
  bool tied = false;
};

// A field that asks for nothing when it has one value.
struct NeutralField {
  std::string_view key;
  std::string_view value;  // as JSON
};

// Names of one thing: the field that the reference implementation's configuration has, and another, which it takes in
// its place where a file has both.
struct FieldNames {
  const char* field;
  const char* other;
};

struct Architecture {
  std::string_view name;  // model_type
  SizeDefaults sizes;
  std::vector<std::int64_t> end_tokens = {};  // where they are left out
  // Fills in the traits; what all architectures have, and sizes, are there. Where it leaves `ropes` empty, one rotation
  // turns all layers. \throws Error naming the field.
  void (*describe)(const JsonObject& config, ModelConfig& out);
  // Fields that describe reads, beside those that all have, and those that the reference implementation does not read.
  std::vector<std::string_view> keys = {};
  std::vector<NeutralField> neutral = {};
  std::vector<FieldNames> other_names = {};
  std::vector<NeutralField> unread = {};  // that do not count; who gives one another value is told so
  bool by_layer_types = false;            // attention goes by layer_types
  std::string_view eps_key = "rms_norm_eps";
  std::string_view activation_key = "hidden_act";
  // Where the model that this is lies within another, of images, say: the field that has its configuration, and its
  // architecture. The rest of the other is not run.
  std::string_view within = {};
  std::string_view inner = {};
};

using Family = std::span<const Architecture>;

// All architectures, family by family.
std::vector<const Architecture*> architectures();
// Null: it is not one we implement.
const Architecture* find_architecture(std::string_view name);

// ---- for the families --------------------------------------------------------

inline constexpr std::string_view kFullLayer = "full_attention";
inline constexpr std::string_view kSlidingLayer = "sliding_attention";

// \throws Error (kUnsupported) naming the field, what it is and what was expected.
void require(const JsonObject& config, const char* key, bool supported, const std::string& expected);

// The one that counts.
const char* counting_name(const JsonObject& config, const FieldNames& names);

// The types of layers that a model's list names; nothing without one.
std::vector<std::string> listed_layer_types(const JsonObject& config, std::int64_t layers);
// The same; without a list, each `period`th layer is of full attention, and the others have a window. 0: all are full.
std::vector<std::string> layer_types_or_period(const JsonObject& config, std::int64_t layers, std::int64_t period);
// A window for the layers that have one.
std::vector<std::int64_t> windows_of(const std::vector<std::string>& types, std::int64_t window);
// sliding_window, left out `usual`; null, no window.
std::int64_t window_or(const JsonObject& config, std::int64_t usual);
// A rotation for each type of layer, as parse_rope_of.
void parse_ropes_by_type(const JsonObject& config, const std::vector<std::string>& types, const RopeRules& full,
                         const RopeRules& sliding, const char* sliding_theta_key, ModelConfig& out);
// Sets the biases of all projections of attention by attention_bias.
void parse_attention_biases(const JsonObject& config, bool usual, ModelConfig& out);
// A number above 0.
double positive_or(const JsonObject& config, const char* key, double usual);
// The same, where null is none: 0; `usual` may be that too.
double cap_or(const JsonObject& config, const char* key, double usual);

// ---- the families ------------------------------------------------------------

Family llama_family();
Family qwen_family();
Family deepseek_family();
Family glm_family();
Family mistral_family();
Family phi_family();
Family gemma_family();
Family olmo_family();
Family granite_family();
Family exaone_family();
Family seed_family();
Family cohere_family();
Family minimax_family();
Family gpt_oss_family();

}  // namespace metal_marlin
