#include "models/architectures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "io/tensor_names.h"

namespace metal_marlin {
namespace {

// Of the norms on low-rank projections, whatever rms_norm_eps says.
constexpr float kLatentNormEps = 1e-6F;

RopeTable rope_table(const RopeConfig& rope, std::int64_t dim) {
  RopeTable table;
  table.frequencies.resize(static_cast<std::size_t>(dim / 2));
  rope_frequencies(rope, 1, table.frequencies);
  table.scale = rope_attention_scale(rope);
  if (rope.by_length())
    table.frequencies_of = [rope](std::int64_t length, std::span<float> out) { rope_frequencies(rope, length, out); };
  return table;
}

// The layers of decoders as their traits say: latent or ordinary attention, dense or sparse feed-forward parts.
class DecoderPlan {
 public:
  explicit DecoderPlan(const ModelConfig& config) : config_(config) {
    plan_.layers = static_cast<int>(config.layers);
    for (std::size_t i = 0; i < config.ropes.size(); ++i)
      plan_.ropes.push_back(rope_table(config.ropes[i], config.ropes[i].rotated_dim(rotated_heads_dim(config, i))));
    hidden_ = plan_.add_buffer("hidden", config.hidden);
    normed_ = plan_.add_buffer("normed", config.hidden);
    branch_ = plan_.add_buffer("branch", config.hidden);
    if (latent()) {
      const CacheShape cache{1, config.latent.rank + config.latent.rope_dim, config.latent.rank, true};
      plan_.caches.assign(static_cast<std::size_t>(config.layers), cache);
      q_ = plan_.add_buffer("q", config.heads * config.head_dim);
      if (config.latent.q_rank > 0) q_low_ = plan_.add_buffer("q_low", config.latent.q_rank);
      latent_ = plan_.add_buffer("latent", cache.key_dim);
      attended_ = plan_.add_buffer("attended", config.heads * config.latent.value_dim);
    } else {
      for (std::size_t i = 0; i < config.heads_of.size(); ++i) {
        const HeadShape& shape = config.heads_of[i];
        const bool own = config.sources[i] == static_cast<int>(i);
        plan_.caches.push_back(own ? CacheShape{shape.kv_heads, shape.head_dim, shape.head_dim, false} : CacheShape{});
        add_heads(shape);
      }
    }
    for (const std::int64_t width : config.intermediates) {
      if (!dense_.contains(width)) dense_[width] = add_feed_forward("", width);
    }
    if (config.moe.experts == 0) return;
    router_ = plan_.add_buffer("router", config.moe.experts);
    routed_ = plan_.add_buffer("routed", config.hidden);
    if (config.moe.shared_intermediate > 0) shared_ = add_feed_forward("shared_", config.moe.shared_intermediate);
    if (config.moe.shared_gate) shared_gate_ = plan_.add_buffer("shared_gate_logit", 1);
  }

  Plan build(bool shows_hidden) {
    add(EmbeddingOp{kEmbeddingWeight, hidden_, config_.vocab});
    scale(hidden_, config_.embedding_scale);
    if (config_.layer_inputs.width > 0) layer_inputs();
    for (layer_ = 0; layer_ < plan_.layers; ++layer_) {
      const auto at = static_cast<std::size_t>(layer_);
      decoder_layer(layer_, config_.windows[at], config_.rotations[at], config_.sparse[at]);
    }
    layer_ = -1;
    prefix_ = "model.";
    const BufferId selected = plan_.add_buffer("selected", config_.hidden, true);
    if (!shows_hidden) {
      add(SelectOp{hidden_, selected});
      head(selected, "norm");
      return std::move(plan_);
    }
    // Of all tokens, as prediction layers read them: a norm is the same before rows are chosen as after.
    const BufferId all = plan_.add_buffer("final", config_.hidden);
    norm("norm", hidden_, all, config_.hidden);
    add(SelectOp{all, selected});
    logits_of(selected);
    plan_.outputs.push_back({kHiddenOutput, all});
    return std::move(plan_);
  }

  // Layer `index` of those for the next tokens (arXiv 2412.19437, section 2.2): from the model's hidden state behind
  // the final norm, and the token that follows it, what comes after that token. The norm before its head is also what
  // it reads when it goes on from what it said itself.
  Plan build_prediction(std::int64_t index) {
    plan_.layers = 1;
    plan_.caches.resize(1);
    plan_.prediction = true;
    layer_ = 0;
    prefix_ = prediction_prefix(config_, index);
    const BufferId embedded = plan_.add_buffer("embedded", config_.hidden);
    const BufferId before = plan_.add_buffer("before", config_.hidden);
    const BufferId joined = plan_.add_buffer("joined", 2 * config_.hidden);
    add(EmbeddingOp{kEmbeddingWeight, embedded, config_.vocab});
    add(InputOp{before});
    norm("enorm", embedded, embedded, config_.hidden);
    norm("hnorm", before, before, config_.hidden);
    add(JoinOp{embedded, before, joined});
    linear("eh_proj", joined, hidden_, false, {});
    decoder_layer(config_.layers + index, 0, config_.rotations.front(), config_.moe.experts > 0);
    layer_ = -1;
    const BufferId selected = plan_.add_buffer("selected", config_.hidden, true);
    add(SelectOp{hidden_, selected});
    head(selected, "shared_head.norm");
    return std::move(plan_);
  }

 private:
  void decoder_layer(std::int64_t number, std::int64_t window, int rope, bool sparse) {
    prefix_ = fmt::format("{}{}.", kLayers, number);
    in_ = norm_before(config_.attention_norms);
    latent() ? latent_attention() : attention(number, window, rope);
    add_branch(config_.attention_norms, branch_);
    if (!config_.parallel) in_ = norm_before(config_.feed_forward_norms);
    const bool both = sparse && config_.moe.beside;
    if (!sparse || both) {
      const auto at = static_cast<std::size_t>(std::min(number, config_.layers - 1));  // a prediction's is the last's
      feed_forward("mlp.", dense_.at(config_.intermediates[at]), ModelPart::kFeedForward);
    }
    if (both) {
      experts_beside_dense();
    } else if (sparse) {
      experts();
    }
    add_branch(config_.feed_forward_norms, sparse && !both ? routed_ : branch_);
    if (config_.layer_inputs.width > 0) add_layer_input(number);
    if (config_.layer_factors) add(ScaleOp{hidden_, 1, 0, prefix_ + "layer_scalar"});
  }

  // Of all layers, from the token's row of their table and from its embedding.
  void layer_inputs() {
    const std::int64_t width = config_.layer_inputs.width;
    prefix_ = "model.";
    inputs_ = plan_.add_buffer("inputs", config_.layers * width);
    input_ = plan_.add_buffer("input", width);
    input_gate_ = plan_.add_buffer("input_gate", width);
    input_active_ = plan_.add_buffer("input_active", width);
    const BufferId projected = plan_.add_buffer("projected", config_.layers * width);
    add(EmbeddingOp{prefix_ + "embed_tokens_per_layer.weight", inputs_, config_.layer_inputs.vocab});
    scale(inputs_, std::sqrt(static_cast<double>(width)));
    linear("per_layer_model_projection", hidden_, projected, false, {});
    scale(projected, 1 / std::sqrt(static_cast<double>(config_.hidden)));
    norm("per_layer_projection_norm", projected, projected, width);
    add(AddOp{inputs_, projected});
    scale(inputs_, std::sqrt(0.5));
  }

  void add_layer_input(std::int64_t number) {
    add(SliceOp{inputs_, input_, number * config_.layer_inputs.width});
    linear("per_layer_input_gate", hidden_, input_gate_, false, {});
    add(GatedOp{input_gate_, input_, input_active_, config_.activation});
    linear("per_layer_projection", input_active_, branch_, false, {});
    norm("post_per_layer_input_norm", branch_, branch_, config_.hidden);
    add(AddOp{hidden_, branch_});
  }

  // The norm of selected rows, shown as hidden, and their logits.
  void head(BufferId selected, const std::string& norm_module) {
    const BufferId final_norm = plan_.add_buffer("final", config_.hidden, true);
    norm(norm_module, selected, final_norm, config_.hidden);
    logits_of(final_norm);
    if (plan_.prediction) plan_.outputs.push_back({kHiddenOutput, final_norm});
  }

  void logits_of(BufferId rows) {
    const BufferId logits = plan_.add_buffer("logits", config_.vocab, true);
    plan_.outputs = {{kLogitsOutput, logits}};
    plan_.hidden = rows;
    add(LinearOp{rows, logits, config_.tied ? kEmbeddingWeight : kHeadWeight, "", false, {ModelPart::kHead}});
    scale(logits, config_.logits_scale, config_.logits_soft_cap);
  }

  struct Heads {
    HeadShape shape;
    BufferId q = -1;
    BufferId k = -1;
    BufferId v = -1;
    BufferId attended = -1;
  };
  struct FeedForward {
    BufferId gate = -1;
    BufferId up = -1;
    BufferId active = -1;
  };

  [[nodiscard]] bool latent() const { return config_.latent.rank > 0; }
  [[nodiscard]] float eps() const { return static_cast<float>(config_.norm_eps); }

  // Layers whose heads have one shape have buffers in common.
  void add_heads(const HeadShape& shape) {
    if (std::any_of(heads_.begin(), heads_.end(), [&](const Heads& known) { return known.shape == shape; })) return;
    const std::int64_t queries = config_.heads * shape.head_dim;
    const std::int64_t keys = shape.kv_heads * shape.head_dim;
    heads_.push_back({shape, plan_.add_buffer("q", queries), plan_.add_buffer("k", keys), plan_.add_buffer("v", keys),
                      plan_.add_buffer("attended", queries)});
  }
  [[nodiscard]] const Heads& heads_of(const HeadShape& shape) const {
    return *std::find_if(heads_.begin(), heads_.end(), [&](const Heads& known) { return known.shape == shape; });
  }

  FeedForward add_feed_forward(const std::string& name, std::int64_t width) {
    const BufferId gate = plan_.add_buffer(name + "gate", width);
    const BufferId up = plan_.add_buffer(name + "up", width);
    return {gate, up, plan_.add_buffer(name + "active", width)};
  }

  void add(Op op) {
    op.layer = layer_;
    plan_.ops.push_back(std::move(op));
  }

  void linear(const std::string& module, BufferId in, BufferId out, bool bias, Role role) {
    add(LinearOp{in, out, prefix_ + module + ".weight", bias ? prefix_ + module + ".bias" : "", false, role});
  }
  void attention_linear(const std::string& module, BufferId in, BufferId out, bool bias, Projection projection) {
    linear("self_attn." + module, in, out, bias, {ModelPart::kAttention, projection});
  }

  void norm(const std::string& module, BufferId in, BufferId out, std::int64_t width) {
    add(NormOp{in, out, prefix_ + module + ".weight", width, eps(), config_.norm, config_.norm_one_more});
  }
  void scale(BufferId x, double factor, double soft_cap = 0) {
    if (factor == 1 && soft_cap == 0) return;
    add(ScaleOp{x, static_cast<float>(factor), static_cast<float>(soft_cap)});
  }

  // What a part reads.
  BufferId norm_before(const PartNorms& norms) {
    if (norms.before.empty()) return hidden_;
    norm(norms.before, hidden_, normed_, config_.hidden);
    return normed_;
  }
  // What a part gave goes to the rest.
  void add_branch(const PartNorms& norms, BufferId branch) {
    if (!norms.after.empty()) norm(norms.after, branch, branch, config_.hidden);
    scale(branch, config_.residual_scale);
    add(AddOp{hidden_, branch});
  }

  void attention(std::int64_t number, std::int64_t window, int rope) {
    const auto at = static_cast<std::size_t>(std::min(number, config_.layers - 1));  // a prediction's is the last's
    const Heads& b = heads_of(config_.heads_of[at]);
    const std::int64_t dim = b.shape.head_dim;
    const bool own = config_.sources[at] == static_cast<int>(at);
    attention_linear("q_proj", in_, b.q, config_.qkv_bias, Projection::kQuery);
    if (own) keys_and_values(b, config_.keys_are_values[at]);
    if (config_.qk_norm != QkNorm::kNone) {
      const bool heads = config_.qk_norm == QkNorm::kHeads;
      norm("self_attn.q_norm", b.q, b.q, heads ? dim : plan_.width(b.q));
      if (own) norm("self_attn.k_norm", b.k, b.k, heads ? dim : plan_.width(b.k));
    }
    const QueryScale& query = config_.query_scale;
    // Before the rotation, which it does not depend on, for that to stay beside attention.
    if (query.beta != 0) add(PositionScaleOp{b.q, static_cast<float>(query.beta), static_cast<float>(query.span)});
    if (rope != kNoRotation) {
      add(RopeOp{b.q, config_.heads, dim, rope, config_.interleaved});
      if (own) add(RopeOp{b.k, b.shape.kv_heads, dim, rope, config_.interleaved});
    }
    add(AttentionOp{b.q, b.k, b.v, b.attended, config_.heads, b.shape.kv_heads, dim,
                    static_cast<float>(config_.attention_scale), window, static_cast<float>(config_.attention_soft_cap),
                    own ? -1 : config_.sources[at], config_.sinks ? prefix_ + "self_attn.sinks" : ""});
    attention_linear("o_proj", b.attended, branch_, config_.output_bias, Projection::kOutput);
  }

  void keys_and_values(const Heads& b, bool keys_are_values) {
    attention_linear("k_proj", in_, b.k, config_.qkv_bias, Projection::kKey);
    if (!keys_are_values) attention_linear("v_proj", in_, b.v, config_.qkv_bias, Projection::kValue);
    if (config_.value_norm) add(NormOp{keys_are_values ? b.k : b.v, b.v, "", b.shape.head_dim, eps(), NormKind::kRms});
  }

  void latent_attention() {
    const LatentConfig& c = config_.latent;
    if (c.q_rank > 0) {
      attention_linear("q_a_proj", in_, q_low_, config_.qkv_bias, Projection::kQueryDown);
    } else {
      attention_linear("q_proj", in_, q_, false, Projection::kQuery);
    }
    attention_linear("kv_a_proj_with_mqa", in_, latent_, config_.qkv_bias, Projection::kLatentDown);
    if (c.q_rank > 0) {
      add(NormOp{q_low_, q_low_, prefix_ + "self_attn.q_a_layernorm.weight", c.q_rank, kLatentNormEps});
      attention_linear("q_b_proj", q_low_, q_, false, Projection::kQueryUp);
    }
    LatentAttentionOp op{q_,
                         latent_,
                         attended_,
                         prefix_ + "self_attn.kv_a_layernorm.weight",
                         kLatentNormEps,
                         prefix_ + "self_attn.kv_b_proj.weight",
                         0,
                         config_.heads,
                         c.nope_dim,
                         c.rope_dim,
                         c.value_dim,
                         c.rank,
                         latent_softmax_scale(config_),
                         c.interleaved};
    add(std::move(op));
    attention_linear("o_proj", attended_, branch_, config_.output_bias, Projection::kOutput);
  }

  // Reads `in`, leaves its sum in `branch`.
  void feed_forward(const std::string& module, const FeedForward& buffers, ModelPart part) {
    linear(module + "gate_proj", in_, buffers.gate, config_.mlp_bias, {part, Projection::kGate});
    linear(module + "up_proj", in_, buffers.up, config_.mlp_bias, {part, Projection::kUp});
    add(GatedOp{buffers.gate, buffers.up, buffers.active, config_.activation});
    linear(module + "down_proj", buffers.active, branch_, config_.mlp_bias, {part, Projection::kDown});
  }

  // Adds what experts give to what the dense part has left in `branch`.
  void experts_beside_dense() {
    const MoeConfig& c = config_.moe;
    if (!c.dense_norm_after.empty()) norm(c.dense_norm_after, branch_, branch_, config_.hidden);
    if (!c.router_norm.empty()) {
      add(NormOp{hidden_, normed_, prefix_ + c.router_norm, config_.hidden, eps(), config_.norm});
      scale(normed_, 1 / std::sqrt(static_cast<double>(config_.hidden)));
      in_ = normed_;
    }
    router();
    in_ = norm_before(c.norms);
    routed();
    if (!c.norms.after.empty()) norm(c.norms.after, routed_, routed_, config_.hidden);
    add(AddOp{branch_, routed_});
  }

  // Reads `in`, leaves its sum in `routed`.
  void experts() {
    router();
    routed();
    if (config_.moe.shared_intermediate == 0) return;
    feed_forward(fmt::format("mlp.{}.", config_.moe.shared_module), shared_, ModelPart::kSharedExpert);
    add(AddOp{routed_, branch_, shared_gate_});
  }

  void router() {
    const MoeConfig& c = config_.moe;
    const Role role{ModelPart::kFeedForward, Projection::kRouter};
    const std::string module = prefix_ + c.router;
    add(LinearOp{in_, router_, module + ".weight", c.router_offset ? module + ".bias" : "", true, role});
    if (c.shared_gate) add(LinearOp{in_, shared_gate_, prefix_ + "mlp.shared_expert_gate.weight", "", true, role});
  }

  void routed() {
    const MoeConfig& c = config_.moe;
    MoeOp op{in_,
             router_,
             routed_,
             prefix_ + c.module + ".",
             c.router_bias ? prefix_ + c.router + ".e_score_correction_bias" : "",
             c.experts,
             c.top_k,
             c.intermediate,
             c.groups,
             c.top_groups,
             c.scoring,
             c.normalize,
             static_cast<float>(c.scale)};
    op.group_best = c.group_best;
    op.activation = c.activation;
    op.clamp = c.clamp;
    op.biases = c.biases;
    if (!c.expert_scales.empty()) op.expert_scales = prefix_ + c.expert_scales;
    add(std::move(op));
  }

  const ModelConfig& config_;
  Plan plan_;
  int layer_ = -1;      // whose ops are being written
  std::string prefix_;  // of its weights
  BufferId hidden_, normed_, branch_;
  BufferId in_ = -1;  // what the part reads
  std::vector<Heads> heads_;
  BufferId q_ = -1, q_low_ = -1, latent_ = -1, attended_ = -1;  // of latent attention
  std::map<std::int64_t, FeedForward> dense_;                   // by width
  FeedForward shared_;
  BufferId shared_gate_ = -1;
  BufferId inputs_ = -1, input_ = -1, input_gate_ = -1, input_active_ = -1;
  BufferId router_ = -1, routed_ = -1;
};

}  // namespace

Plan build_plan(const ModelConfig& config, bool shows_hidden) {
  return DecoderPlan(config).build(shows_hidden);
}

Plan build_prediction_plan(const ModelConfig& config, std::int64_t index) {
  return DecoderPlan(config).build_prediction(index);
}

}  // namespace metal_marlin
