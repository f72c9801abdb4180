// What a decoder-only transformer is, as config.json states it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "io/json.h"
#include "models/rope.h"
#include "ops/plan.h"

namespace metal_marlin {

class Checkpoint;

// Multi-head latent attention (arXiv 2405.04434).
struct LatentConfig {
  std::int64_t q_rank = 0;  // 0: queries are projected at once
  std::int64_t rank = 0;    // of keys and values; 0: the model has ordinary attention
  std::int64_t nope_dim = 0;
  std::int64_t rope_dim = 0;
  std::int64_t value_dim = 0;
  bool interleaved = true;
};

// Mixture of experts.
struct MoeConfig {
  std::int64_t experts = 0;  // 0: every layer is dense
  std::int64_t top_k = 0;
  std::int64_t intermediate = 0;
  std::int64_t shared = 0;  // experts that see every token, held as one
  std::int64_t groups = 1;
  std::int64_t top_groups = 1;
  RouterScoring scoring = RouterScoring::kSoftmax;
  bool router_bias = false;  // the router has a bias for its choice alone
  bool normalize = false;
  double scale = 1;
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
  LatentConfig latent;
  MoeConfig moe;
  std::vector<bool> sparse;              // per layer: has experts
  std::int64_t mtp_layers = 0;           // multi-token prediction layers after the last
  std::vector<std::int64_t> end_tokens;  // any of them ends a generation
};

// config: config.json; generation: generation_config.json, or null.
// \throws Error naming the field, or the known architectures.
ModelConfig parse_model_config(const Json& config, const Json& generation, const std::string& where);

// The same of a checkpoint. A head that is tied to the embedding, but stored beside it with other numbers, counts, as
// in the reference implementation; notice: told so, if not empty.
ModelConfig read_model_config(const Checkpoint& checkpoint, const std::function<void(const std::string&)>& notice = {});

// "model.layers.N." of a multi-token prediction layer's weights: these layers follow the others.
std::string prediction_prefix(const ModelConfig& config, std::int64_t index);
// How many of them a checkpoint holds: those that its configuration tells of, or none, where they were left out.
// \throws Error naming one that is missing among others.
std::int64_t prediction_layers(const ModelConfig& config, const Checkpoint& checkpoint);
// Whether a weight is such a layer's copy of the embedding or the head, which are the model's own.
bool is_prediction_copy(const ModelConfig& config, const std::string& weight);
// \throws Error (kUnsupported) naming a copy with other numbers than what it is a copy of.
void require_same_copies(const ModelConfig& config, const Checkpoint& checkpoint);

// The architectures (model_type) we implement.
std::vector<std::string> known_architectures();

// What scores of latent attention are multiplied by; YaRN's temperature is squared into it.
float latent_softmax_scale(const ModelConfig& config);

}  // namespace metal_marlin
