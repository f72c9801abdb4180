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

// The norms around a part of a layer, by their modules' names; empty: none.
struct PartNorms {
  std::string before;  // of what the part reads
  std::string after;   // of what it gives, before that is added to what comes in
};

// Mixture of experts.
struct MoeConfig {
  std::int64_t experts = 0;  // 0: every layer is dense
  std::int64_t top_k = 0;
  std::int64_t intermediate = 0;
  std::int64_t shared_intermediate = 0;  // of the experts that see every token, held as one; 0: there are none
  std::string shared_module = "shared_experts";
  bool shared_gate = false;  // what they give is multiplied by the sigmoid of a projection of what they read
  std::int64_t groups = 1;
  std::int64_t top_groups = 1;
  int group_best = 2;  // experts of a group, 1 or 2, whose scores are its own
  RouterScoring scoring = RouterScoring::kSoftmax;
  bool router_bias = false;  // the router has a bias for its choice alone
  bool normalize = false;
  double scale = 1;
  std::string router = "mlp.gate";  // the module
  bool router_offset = false;       // it has an ordinary bias, of its logits
  bool biases = false;              // of the experts' projections
  GateActivation activation = GateActivation::kSilu;
  GateClamp clamp = {};
  std::string module = "mlp.experts";
  // The weights of a norm of what comes of attention, which the router reads over the root of its width; empty: the
  // router reads what experts read.
  std::string router_norm = {};
  std::string expert_scales = {};  // weights: a factor on what each expert gives; empty: none
  // A dense part runs beside the experts, and what both give is added up. The part's norms are around both; these are
  // of each alone.
  bool beside = false;
  std::string dense_norm_after = {};
  PartNorms norms = {};
};

// Norms of queries and keys.
enum class QkNorm : std::uint8_t {
  kNone,
  kHeads,        // each head by itself
  kProjections,  // all heads together
};

// Queries times 1 + beta * log(1 + floor(position / span)).
struct QueryScale {
  double beta = 0;  // 0: none
  double span = 1;
};

// The heads of a layer's attention.
struct HeadShape {
  std::int64_t head_dim = 0;
  std::int64_t kv_heads = 0;
  bool operator==(const HeadShape&) const = default;
};

// Inputs that each layer has of a token beside its hidden state: a row of a table of its own, and a projection of the
// token's embedding.
struct LayerInputs {
  std::int64_t vocab = 0;
  std::int64_t width = 0;  // of a layer's; 0: there are none
};

// What a layer does is said by traits, which src/models/families fills in by model_type; build_plan reads them alone.
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
  bool tied = false;  // lm_head shares the embedding

  NormKind norm = NormKind::kRms;
  bool norm_one_more = false;  // norms multiply by their weights plus one
  double norm_eps = 1e-6;
  PartNorms attention_norms{"input_layernorm", ""};
  PartNorms feed_forward_norms{"post_attention_layernorm", ""};
  bool parallel = false;  // the feed-forward part reads what attention reads, not what comes of it

  bool qkv_bias = false;
  bool output_bias = false;
  bool mlp_bias = false;
  QkNorm qk_norm = QkNorm::kNone;
  bool value_norm = false;            // heads of values are normed too, without weights
  std::vector<HeadShape> heads_of;    // per layer
  std::vector<int> sources;           // per layer: whose keys and values it reads; itself: its own
  std::vector<bool> keys_are_values;  // per layer: values are what keys are before their norm and rotation
  std::vector<std::int64_t> windows;  // per layer; 0: full attention
  std::vector<RopeConfig> ropes;
  std::vector<int> rotations;     // per layer: which of them; kNoRotation: none
  bool interleaved = false;       // rotations are of pairs (2i, 2i + 1)
  double attention_scale = 0;     // of scores
  double attention_soft_cap = 0;  // on scores; 0: none
  bool sinks = false;             // each head has a score beside those of keys
  QueryScale query_scale;

  std::vector<std::int64_t> intermediates;  // per layer, of dense ones
  LayerInputs layer_inputs;
  bool layer_factors = false;  // a layer's hidden state is multiplied by a weight at its end
  GateActivation activation = GateActivation::kSilu;
  double embedding_scale = 1;
  double residual_scale = 1;  // of what a part adds
  double logits_scale = 1;
  double logits_soft_cap = 0;  // 0: none

  LatentConfig latent;
  MoeConfig moe;
  std::vector<bool> sparse;              // per layer: has experts
  std::int64_t mtp_layers = 0;           // multi-token prediction layers after the last
  std::vector<std::int64_t> end_tokens;  // any of them ends a generation
};

inline constexpr int kNoRotation = -1;

// Of the layers that a rotation turns, or the part of it that is turned in latent attention.
std::int64_t rotated_heads_dim(const ModelConfig& config, std::size_t rope);

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
