#include "models/architectures.h"

#include <fmt/format.h>

#include <cinttypes>
#include <cmath>
#include <cstdio>

namespace metal_marlin {
namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";
// Of the norms on low-rank projections, whatever rms_norm_eps says.
constexpr float kLatentNormEps = 1e-6F;

// The layers of the families we know: Llama (arXiv 2302.13971), Qwen3 (2505.09388;
// norms on q and k) and GLM-4.7-Flash (latent attention), with dense or sparse
// feed-forward parts.
class DecoderPlan {
 public:
  explicit DecoderPlan(const ModelConfig& config) : config_(config) {
    plan_.vocab = config.vocab;
    plan_.layers = static_cast<int>(config.layers);
    plan_.rope_frequencies = rope_frequencies(config.rope, latent() ? config.latent.rope_dim : config.head_dim);
    plan_.rope_scale = rope_attention_scale(config.rope);
    hidden_ = plan_.add_buffer("hidden", config.hidden);
    normed_ = plan_.add_buffer("normed", config.hidden);
    branch_ = plan_.add_buffer("branch", config.hidden);
    if (latent()) {
      plan_.cache = {1, config.latent.rank + config.latent.rope_dim, config.latent.rank, true};
      q_ = plan_.add_buffer("q", config.heads * config.head_dim);
      if (config.latent.q_rank > 0) q_low_ = plan_.add_buffer("q_low", config.latent.q_rank);
      latent_ = plan_.add_buffer("latent", plan_.cache.key_dim);
      attended_ = plan_.add_buffer("attended", config.heads * config.latent.value_dim);
    } else {
      plan_.cache = {config.kv_heads, config.head_dim, config.head_dim, false};
      q_ = plan_.add_buffer("q", config.heads * config.head_dim);
      k_ = plan_.add_buffer("k", config.kv_heads * config.head_dim);
      v_ = plan_.add_buffer("v", config.kv_heads * config.head_dim);
      attended_ = plan_.add_buffer("attended", config.heads * config.head_dim);
    }
    dense_ = add_feed_forward("", config.intermediate);
    if (config.moe.experts == 0) return;
    router_ = plan_.add_buffer("router", config.moe.experts);
    routed_ = plan_.add_buffer("routed", config.hidden);
    if (config.moe.shared > 0) shared_ = add_feed_forward("shared_", config.moe.shared * config.moe.intermediate);
  }

  Plan build() {
    plan_.ops.emplace_back(EmbeddingOp{kEmbedding, hidden_});
    for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
      prefix_ = fmt::format("model.layers.{}.", layer);
      norm("input_layernorm", hidden_, normed_, config_.hidden);
      latent() ? latent_attention(static_cast<int>(layer)) : attention(static_cast<int>(layer));
      plan_.ops.emplace_back(AddOp{hidden_, branch_});
      norm("post_attention_layernorm", hidden_, normed_, config_.hidden);
      if (config_.sparse[static_cast<std::size_t>(layer)]) {
        experts(static_cast<int>(layer));
        plan_.ops.emplace_back(AddOp{hidden_, routed_});
      } else {
        feed_forward("mlp.", dense_);
        plan_.ops.emplace_back(AddOp{hidden_, branch_});
      }
    }
    const BufferId selected = plan_.add_buffer("selected", config_.hidden, true);
    const BufferId final_norm = plan_.add_buffer("final", config_.hidden, true);
    plan_.logits = plan_.add_buffer("logits", config_.vocab, true);
    plan_.ops.emplace_back(SelectOp{hidden_, selected});
    plan_.ops.emplace_back(RmsNormOp{selected, final_norm, "model.norm.weight", config_.hidden, eps()});
    plan_.ops.emplace_back(LinearOp{final_norm, plan_.logits, config_.tied ? kEmbedding : kHead, ""});
    return std::move(plan_);
  }

 private:
  struct FeedForward {
    BufferId gate = -1;
    BufferId up = -1;
    BufferId active = -1;
  };

  [[nodiscard]] bool latent() const { return config_.latent.rank > 0; }
  [[nodiscard]] float eps() const { return static_cast<float>(config_.rms_eps); }

  FeedForward add_feed_forward(const std::string& name, std::int64_t width) {
    const BufferId gate = plan_.add_buffer(name + "gate", width);
    const BufferId up = plan_.add_buffer(name + "up", width);
    return {gate, up, plan_.add_buffer(name + "active", width)};
  }

  void linear(const std::string& module, BufferId in, BufferId out, bool bias) {
    plan_.ops.emplace_back(LinearOp{in, out, prefix_ + module + ".weight", bias ? prefix_ + module + ".bias" : ""});
  }

  void norm(const char* module, BufferId in, BufferId out, std::int64_t width) {
    plan_.ops.emplace_back(RmsNormOp{in, out, prefix_ + module + ".weight", width, eps()});
  }

  void attention(int layer) {
    linear("self_attn.q_proj", normed_, q_, config_.attention_bias);
    linear("self_attn.k_proj", normed_, k_, config_.attention_bias);
    linear("self_attn.v_proj", normed_, v_, config_.attention_bias);
    if (config_.qk_norm) {
      norm("self_attn.q_norm", q_, q_, config_.head_dim);
      norm("self_attn.k_norm", k_, k_, config_.head_dim);
    }
    plan_.ops.emplace_back(RopeOp{q_, config_.heads, config_.head_dim});
    plan_.ops.emplace_back(RopeOp{k_, config_.kv_heads, config_.head_dim});
    const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(config_.head_dim)));
    plan_.ops.emplace_back(AttentionOp{q_, k_, v_, attended_, layer, config_.heads, config_.kv_heads, config_.head_dim,
                                       scale, config_.windows[static_cast<std::size_t>(layer)]});
    linear("self_attn.o_proj", attended_, branch_, config_.attention_bias);
  }

  void latent_attention(int layer) {
    const LatentConfig& c = config_.latent;
    if (c.q_rank > 0) {
      linear("self_attn.q_a_proj", normed_, q_low_, config_.attention_bias);
    } else {
      linear("self_attn.q_proj", normed_, q_, false);
    }
    linear("self_attn.kv_a_proj_with_mqa", normed_, latent_, config_.attention_bias);
    if (c.q_rank > 0) {
      plan_.ops.emplace_back(
          RmsNormOp{q_low_, q_low_, prefix_ + "self_attn.q_a_layernorm.weight", c.q_rank, kLatentNormEps});
      linear("self_attn.q_b_proj", q_low_, q_, false);
    }
    LatentAttentionOp op{q_,
                         latent_,
                         attended_,
                         prefix_ + "self_attn.kv_a_layernorm.weight",
                         kLatentNormEps,
                         prefix_ + "self_attn.kv_b_proj.weight",
                         layer,
                         config_.heads,
                         c.nope_dim,
                         c.rope_dim,
                         c.value_dim,
                         c.rank,
                         latent_softmax_scale(config_),
                         c.interleaved};
    plan_.ops.emplace_back(std::move(op));
    linear("self_attn.o_proj", attended_, branch_, config_.attention_bias);
  }

  // Reads `normed`, leaves its sum in `branch`.
  void feed_forward(const std::string& module, const FeedForward& buffers) {
    linear(module + "gate_proj", normed_, buffers.gate, config_.mlp_bias);
    linear(module + "up_proj", normed_, buffers.up, config_.mlp_bias);
    plan_.ops.emplace_back(SwigluOp{buffers.gate, buffers.up, buffers.active});
    linear(module + "down_proj", buffers.active, branch_, config_.mlp_bias);
  }

  // Reads `normed`, leaves its sum in `routed`.
  void experts(int layer) {
    const MoeConfig& c = config_.moe;
    plan_.ops.emplace_back(LinearOp{normed_, router_, prefix_ + "mlp.gate.weight", "", true});
    MoeOp op{normed_,
             router_,
             routed_,
             layer,
             prefix_ + "mlp.experts.",
             c.correction ? prefix_ + "mlp.gate.e_score_correction_bias" : "",
             c.experts,
             c.top_k,
             c.intermediate,
             c.groups,
             c.top_groups,
             c.scoring,
             c.normalize,
             static_cast<float>(c.scale)};
    plan_.ops.emplace_back(std::move(op));
    if (c.shared == 0) return;
    feed_forward("mlp.shared_experts.", shared_);
    plan_.ops.emplace_back(AddOp{routed_, branch_});
  }

  const ModelConfig& config_;
  Plan plan_;
  std::string prefix_;
  BufferId hidden_, normed_, branch_;
  BufferId q_ = -1, q_low_ = -1, k_ = -1, v_ = -1, latent_ = -1, attended_ = -1;
  FeedForward dense_, shared_;
  BufferId router_ = -1, routed_ = -1;
};

}  // namespace

Plan build_plan(const ModelConfig& config) {
  return DecoderPlan(config).build();
}

std::optional<ExpertPlace> expert_place(const std::string& weight) {
  ExpertPlace place{};
  if (std::sscanf(weight.c_str(), "model.layers.%" SCNd64 ".mlp.experts.%" SCNd64 ".", &place.layer, &place.expert) !=
      2)
    return std::nullopt;
  return place;
}

WeightClass weight_class(const std::string& weight) {
  if (weight == kEmbedding) return WeightClass::kEmbedding;
  if (weight == kHead) return WeightClass::kHead;
  if (weight.find(".self_attn.") != std::string::npos) return WeightClass::kAttention;
  if (expert_place(weight)) return WeightClass::kExpert;
  if (weight.find(".mlp.shared_experts.") != std::string::npos) return WeightClass::kSharedExpert;
  return weight.find(".mlp.") != std::string::npos ? WeightClass::kFeedForward : WeightClass::kOther;
}

bool is_embedding_or_head(const std::string& weight) {
  return weight == kEmbedding || weight == kHead;
}

}  // namespace metal_marlin
