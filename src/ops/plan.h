// A model's forward pass as data: op descriptors over named buffers, with the
// number of tokens left open. Architectures write plans (src/models), backends
// prepare and run them (src/backends).
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace metal_marlin {

// Index into Plan::buffers.
using BufferId = int;

// Activations are f32, one row per token.
struct Buffer {
  std::string name;
  std::int64_t width = 0;
  bool selected = false;  // one row per token whose logits are wanted, not per token
};

// out[t] = weight[token[t]]
struct EmbeddingOp {
  std::string weight;
  BufferId out;
};

// Root-mean-square norm (arXiv 1910.07467) of each run of `width` elements; a
// row may hold several runs (heads).
struct RmsNormOp {
  BufferId in;
  BufferId out;
  std::string weight;
  std::int64_t width;
  float eps;
};

// out = in * weight^T + bias; weight is [out width, in width].
struct LinearOp {
  BufferId in;
  BufferId out;
  std::string weight;
  std::string bias;  // empty: none
};

// Rotates pairs (i, i + head_dim/2) of each head in place by position * frequency.
struct RopeOp {
  BufferId x;
  std::int64_t heads;
  std::int64_t head_dim;
};

// Appends k and v to the cache of `layer`, then causal softmax attention of q
// over all cached positions; grouped when kv_heads < heads (arXiv 2305.13245).
struct AttentionOp {
  BufferId q;
  BufferId k;
  BufferId v;
  BufferId out;
  int layer;
  std::int64_t heads;
  std::int64_t kv_heads;
  std::int64_t head_dim;
  float scale;
  std::int64_t window;  // keys a query sees, itself included; 0: all
};

// out = silu(gate) * up (arXiv 2002.05202)
struct SwigluOp {
  BufferId gate;
  BufferId up;
  BufferId out;
};

// x += y
struct AddOp {
  BufferId x;
  BufferId y;
};

// Keeps the rows whose logits are wanted.
struct SelectOp {
  BufferId in;
  BufferId out;
};

using Op = std::variant<EmbeddingOp, RmsNormOp, LinearOp, RopeOp, AttentionOp, SwigluOp, AddOp, SelectOp>;

// "linear model.layers.0.mlp.up_proj.weight", for errors.
std::string describe(const Op& op);

struct Plan {
  std::vector<Buffer> buffers;
  std::vector<Op> ops;
  BufferId logits = -1;
  std::int64_t vocab = 0;
  // The cache's shape.
  int layers = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  // Angles per position, [head_dim / 2], and the factor on cos and sin.
  std::vector<float> rope_frequencies;
  float rope_scale = 1;

  BufferId add_buffer(std::string name, std::int64_t width, bool selected = false) {
    buffers.push_back({std::move(name), width, selected});
    return static_cast<BufferId>(buffers.size()) - 1;
  }
};

// The shape that each weight of the plan must have, in order of first use.
struct PlannedWeight {
  std::string name;
  std::vector<std::int64_t> shape;
  bool matrix = false;  // may be quantized
};
std::vector<PlannedWeight> planned_weights(const Plan& plan);

}  // namespace metal_marlin
