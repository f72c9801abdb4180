// A model's forward pass as data: op descriptors over named buffers, with the
// number of tokens left open. Architectures write plans (src/models), backends
// prepare and run them (src/backends).
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace metal_marlin {

// Index into Plan::buffers.
using BufferId = int;

// The part of a model that a weight belongs to, and which of its projections it is.
enum class ModelPart : std::uint8_t { kEmbedding, kHead, kAttention, kFeedForward, kSharedExpert, kExpert, kOther };
enum class Projection : std::uint8_t {
  kNone,
  kQuery,
  kQueryDown,  // low-rank queries: down to the rank, and up from it
  kQueryUp,
  kKey,
  kValue,
  kLatentDown,  // keys and values of latent attention: down to the latent, and up from it
  kLatentUp,
  kOutput,
  kRouter,
  kGate,
  kUp,
  kDown
};
struct Role {
  ModelPart part = ModelPart::kOther;
  Projection projection = Projection::kNone;
  bool operator==(const Role&) const = default;
};

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
  std::int64_t vocab;
};

enum class NormKind : std::uint8_t {
  kRms,   // by the root of the mean square (arXiv 1910.07467)
  kLayer  // by the mean and the deviation, without a bias (arXiv 1607.06450)
};

// A norm of each run of `width` elements; a row may hold several runs (heads).
struct NormOp {
  BufferId in;
  BufferId out;
  std::string weight;  // empty: none, as if all of it were 1
  std::int64_t width;
  float eps;
  NormKind kind = NormKind::kRms;
  bool one_more = false;  // multiplies by the weight plus one
};

// out = in * weight^T + bias; weight is [out width, in width].
struct LinearOp {
  BufferId in;
  BufferId out;
  std::string weight;
  std::string bias;    // empty: none
  bool exact = false;  // never quantized, nor its input: a router, whose choices a rounding would flip
  Role role = {};
};

// Rotates pairs of each head in place by position * frequency: (i, i + n/2) of its first n elements, of which the table
// has n/2 frequencies.
struct RopeOp {
  BufferId x;
  std::int64_t heads;
  std::int64_t head_dim;
  int rope = 0;              // index into Plan::ropes
  bool interleaved = false;  // pairs (2i, 2i + 1) instead
};

// x *= 1 + beta * log(1 + floor(position / span)): queries far from where a model's training began.
struct PositionScaleOp {
  BufferId x;
  float beta;
  float span;
};

// Appends k and v to the cache of its layer, then causal softmax attention of q
// over all cached positions; grouped when kv_heads < heads (arXiv 2305.13245). With a
// source, nothing is appended: k and v are that layer's, and so is the cache.
struct AttentionOp {
  BufferId q;
  BufferId k;
  BufferId v;
  BufferId out;
  std::int64_t heads;
  std::int64_t kv_heads;
  std::int64_t head_dim;
  float scale;
  std::int64_t window;  // keys a query sees, itself included; 0: all
  float soft_cap = 0;   // scores become cap * tanh(score / cap); 0: none
  int source = -1;      // the layer whose keys and values it reads; -1: its own
  // A score of each head that counts among its softmaxes' scores, but has no value (arXiv 2309.17453); empty: none.
  std::string sinks = {};
};

// Multi-head latent attention (arXiv 2405.04434). A token's keys and values of
// all heads are `expand` * latent; the cache holds the latent alone, normalised,
// and the rotated key part that the heads share. Both of a head's query parts
// lie side by side, the one without position first. `expand` is
// [heads * (nope_dim + value_dim), rank].
struct LatentAttentionOp {
  BufferId q;       // [heads * (nope_dim + rope_dim)], rotated in place
  BufferId latent;  // [rank + rope_dim], the second part rotated in place
  BufferId out;     // [heads * value_dim]
  std::string norm;
  float norm_eps;
  std::string expand;
  int rope;  // index into Plan::ropes
  std::int64_t heads;
  std::int64_t nope_dim;
  std::int64_t rope_dim;
  std::int64_t value_dim;
  std::int64_t rank;
  float scale;
  bool interleaved;  // rotates pairs (2i, 2i+1), not (i, i + rope_dim/2)
};

enum class GateActivation : std::uint8_t { kSilu, kGeluTanh, kGelu, kClamped };

// Of kClamped, whose product of a gate and what it opens is (u + 1) * g * sigmoid(alpha * g): g is the gate, no more
// than the limit, and u the other, within the limit on both sides.
struct GateClamp {
  float alpha = 1.702F;
  float limit = 7;
};

enum class RouterScoring : std::uint8_t { kSoftmax, kSigmoid };

// The sum over the chosen experts of weight * down(activation(gate(in)) * up(in)).
// Experts are chosen by score plus the router's bias, within the `top_groups` groups
// whose best, or two best, sum highest (arXiv 2405.04434, 2412.19437); ties go to the
// lower index. Their weights are the scores, without the bias.
struct MoeOp {
  BufferId in;
  BufferId logits;  // the router's, [experts]
  BufferId out;
  std::string prefix;       // of the experts' weights: prefix + "7.up_proj.weight"
  std::string router_bias;  // empty: none
  std::int64_t experts;
  std::int64_t top_k;
  std::int64_t intermediate;
  std::int64_t groups;
  std::int64_t top_groups;
  RouterScoring scoring;
  bool normalize;         // weights add up to 1
  float scale;            // on the weights
  int down_rotation = 0;  // block of the Hadamard rotation of what `down` reads; 0: none
  int group_best = 2;     // experts of a group, 1 or 2, whose scores are its own
  GateActivation activation = GateActivation::kSilu;
  GateClamp clamp = {};
  bool biases = false;             // of all projections of the experts
  std::string expert_scales = {};  // [experts], on what each expert gives; empty: none
};

// The name of an expert's weight; projection: gate, up or down.
std::string expert_weight(const MoeOp& op, std::int64_t expert, const char* projection);
// The same of its bias; empty: it has none.
std::string expert_bias(const MoeOp& op, std::int64_t expert, const char* projection);

// out = activation(gate) * up (arXiv 2002.05202)
struct GatedOp {
  BufferId gate;
  BufferId up;
  BufferId out;
  GateActivation activation = GateActivation::kSilu;
  GateClamp clamp = {};
};

// x += y; with a gate, which has one element a row, x += sigmoid(gate) * y
struct AddOp {
  BufferId x;
  BufferId y;
  BufferId gate = -1;  // -1: none
};

// x *= factor, then, with a cap, x = cap * tanh(x / cap)
struct ScaleOp {
  BufferId x;
  float factor;
  float soft_cap = 0;
  std::string weight = {};  // of one element, which multiplies too; empty: none
};

// out = in, each block of a row rotated by a Hadamard matrix over its root (formats/hadamard.h).
struct HadamardOp {
  BufferId in;
  BufferId out;
  int block;
};

// Keeps the rows whose logits are wanted.
struct SelectOp {
  BufferId in;
  BufferId out;
};

// The rows that the batch brings: where a slice of a plan begins.
struct InputOp {
  BufferId out;
};

// out = first and second side by side.
struct JoinOp {
  BufferId first;
  BufferId second;
  BufferId out;
};

// out = the elements of each row that begin with `first`.
struct SliceOp {
  BufferId in;
  BufferId out;
  std::int64_t first;
};

// Shows the first `width` elements of a buffer's rows to the batch's observer, under a name.
struct ObserveOp {
  BufferId in;
  std::string name;
  std::int64_t width;
};

using OpBody = std::variant<EmbeddingOp, NormOp, LinearOp, RopeOp, PositionScaleOp, AttentionOp, LatentAttentionOp,
                            MoeOp, GatedOp, AddOp, ScaleOp, HadamardOp, SelectOp, InputOp, JoinOp, SliceOp, ObserveOp>;

// ops/op_traits.h says of each kind what it reads, writes and weighs.
struct Op {
  template <typename T>
  requires std::constructible_from<OpBody, T> Op(T op, int op_layer = -1)
      : body(std::move(op)), layer(op_layer) {}  // NOLINT(google-explicit-constructor)

  // Null: of another kind.
  template <typename T>
  [[nodiscard]] const T* as() const {
    return std::get_if<T>(&body);
  }
  template <typename T>
  [[nodiscard]] T* as() {
    return std::get_if<T>(&body);
  }

  OpBody body;
  int layer;  // that it is part of; -1: none
};

// What the cache holds of a token in a layer.
struct CacheShape {
  std::int64_t heads = 0;  // 0: nothing, as it reads another layer's
  std::int64_t key_dim = 0;
  std::int64_t value_dim = 0;
  bool latent = false;  // no values: each is the first part of its key
};

// Angles per position, one for each pair, and the factor on cos and sin.
struct RopeTable {
  std::vector<float> frequencies;
  float scale = 1;
  // Where angles depend on it: those in a sequence of so many positions. Empty: always the same ones.
  std::function<void(std::int64_t length, std::span<float> out)> frequencies_of = {};
};

// A buffer that is read once the ops have run.
struct PlanOutput {
  std::string name;
  BufferId buffer;
};
inline constexpr const char* kLogitsOutput = "logits";
inline constexpr const char* kHiddenOutput = "hidden";

struct Plan {
  std::vector<Buffer> buffers;
  std::vector<Op> ops;
  std::vector<PlanOutput> outputs;  // the first is what a step returns; ObserveOps show what does not last as long
  BufferId hidden = -1;             // what the head reads: a model's last hidden states, normed; -1: it has none
  int layers = 0;
  bool prediction = false;         // of a layer for the next tokens, beside the model's own plan
  std::vector<CacheShape> caches;  // of each layer
  std::vector<RopeTable> ropes;

  BufferId add_buffer(std::string name, std::int64_t width, bool selected = false) {
    buffers.push_back({std::move(name), width, selected});
    return static_cast<BufferId>(buffers.size()) - 1;
  }
  [[nodiscard]] std::int64_t width(BufferId id) const { return buffers[static_cast<std::size_t>(id)].width; }
  [[nodiscard]] BufferId result() const { return outputs.front().buffer; }
  // Of this name; -1: there is none.
  [[nodiscard]] BufferId output(std::string_view name) const {
    for (const PlanOutput& output : outputs) {
      if (output.name == name) return output.buffer;
    }
    return -1;
  }
  // The first op of a kind; null: there is none.
  template <typename T>
  [[nodiscard]] const T* find() const {
    for (const Op& op : ops) {
      if (const T* const found = op.as<T>()) return found;
    }
    return nullptr;
  }
};

// "linear model.layers.0.mlp.up_proj.weight", for errors.
std::string describe(const Op& op);
// The buffers an op reads, those it changes in place among them.
std::vector<BufferId> read_buffers(const Op& op);
// The buffers it writes.
std::vector<BufferId> written_buffers(const Op& op);

// The plan with the inputs of weights that are stored rotated rotated too; rotation_of: the block of a
// weight's rotation, 0 for none. \throws Error (kUnsupported) naming a weight that cannot be.
Plan with_rotations(const Plan& plan, const std::function<int(const std::string& weight)>& rotation_of);

// The widest norm that has no weight; 0: there is none.
std::int64_t widest_bare_norm(const Plan& plan);

// The plan up to its last hidden states, which are its output: no head. \throws Error (kInternal) where it has none.
Plan hidden_plan(const Plan& plan);

// What the checkpoint must hold for the plan, each weight once, in order of first use.
struct PlannedWeight {
  std::string name;
  std::vector<std::int64_t> shape;
  bool matrix = false;
  bool quantizable = false;
  Role role = {};
  std::int64_t expert = -1;  // a routed expert's number
  float added = 0;           // to each element of a vector as it is loaded
  int layer = -1;            // of the op that uses it first
  bool prediction = false;   // of a plan for the next tokens alone

  // The embedding or the output head, not a linear layer inside the layers.
  [[nodiscard]] bool embedding_or_head() const {
    return role.part == ModelPart::kEmbedding || role.part == ModelPart::kHead;
  }
};
std::vector<PlannedWeight> planned_weights(const Plan& plan);

}  // namespace metal_marlin
