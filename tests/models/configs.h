// The config.json of small models.
#pragma once

#include <nlohmann/json.hpp>

#include "io/json.h"
#include "models/config.h"

namespace metal_marlin {

inline Json config_of(const std::string& architecture) {
  Json config = {{"model_type", architecture}, {"vocab_size", 64},       {"hidden_size", 32},
                 {"intermediate_size", 64},    {"num_hidden_layers", 4}, {"num_attention_heads", 4},
                 {"num_key_value_heads", 4},   {"head_dim", 8},          {"max_position_embeddings", 64}};
  if (architecture == "deepseek_v3" || architecture == "kimi_k2") config["qk_rope_head_dim"] = 8;  // as its heads have
  if (architecture == "deepseek_v2") config["num_experts_per_tok"] = 6;  // of which it has no usual number
  return config;
}

inline ModelConfig with(Json config, const char* key, const Json& value) {
  config[key] = value;
  return parse_model_config(config, nullptr, "config.json");
}

}  // namespace metal_marlin
