#include "models/architectures.h"

#include <fmt/format.h>

#include <cmath>

namespace metal_marlin {
namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

// Llama (arXiv 2302.13971) and Qwen3 (2505.09388), which adds norms on q and k.
class DecoderPlan {
 public:
  explicit DecoderPlan(const ModelConfig& config) : config_(config) {
    plan_.vocab = config.vocab;
    plan_.layers = static_cast<int>(config.layers);
    plan_.kv_heads = config.kv_heads;
    plan_.head_dim = config.head_dim;
    plan_.rope_frequencies = rope_frequencies(config.rope, config.head_dim);
    plan_.rope_scale = rope_attention_scale(config.rope);
    hidden_ = plan_.add_buffer("hidden", config.hidden);
    normed_ = plan_.add_buffer("normed", config.hidden);
    q_ = plan_.add_buffer("q", config.heads * config.head_dim);
    k_ = plan_.add_buffer("k", config.kv_heads * config.head_dim);
    v_ = plan_.add_buffer("v", config.kv_heads * config.head_dim);
    attended_ = plan_.add_buffer("attended", config.heads * config.head_dim);
    gate_ = plan_.add_buffer("gate", config.intermediate);
    up_ = plan_.add_buffer("up", config.intermediate);
    active_ = plan_.add_buffer("active", config.intermediate);
    branch_ = plan_.add_buffer("branch", config.hidden);
  }

  Plan build() {
    plan_.ops.emplace_back(EmbeddingOp{kEmbedding, hidden_});
    for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
      prefix_ = fmt::format("model.layers.{}.", layer);
      attention(static_cast<int>(layer));
      feed_forward();
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
  [[nodiscard]] float eps() const { return static_cast<float>(config_.rms_eps); }

  void linear(const char* module, BufferId in, BufferId out, bool bias) {
    plan_.ops.emplace_back(LinearOp{in, out, prefix_ + module + ".weight", bias ? prefix_ + module + ".bias" : ""});
  }

  void norm(const char* module, BufferId in, BufferId out, std::int64_t width) {
    plan_.ops.emplace_back(RmsNormOp{in, out, prefix_ + module + ".weight", width, eps()});
  }

  void attention(int layer) {
    norm("input_layernorm", hidden_, normed_, config_.hidden);
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
    plan_.ops.emplace_back(AddOp{hidden_, branch_});
  }

  void feed_forward() {
    norm("post_attention_layernorm", hidden_, normed_, config_.hidden);
    linear("mlp.gate_proj", normed_, gate_, config_.mlp_bias);
    linear("mlp.up_proj", normed_, up_, config_.mlp_bias);
    plan_.ops.emplace_back(SwigluOp{gate_, up_, active_});
    linear("mlp.down_proj", active_, branch_, config_.mlp_bias);
    plan_.ops.emplace_back(AddOp{hidden_, branch_});
  }

  const ModelConfig& config_;
  Plan plan_;
  std::string prefix_;
  BufferId hidden_, normed_, q_, k_, v_, attended_, gate_, up_, active_, branch_;
};

}  // namespace

Plan build_plan(const ModelConfig& config) {
  return DecoderPlan(config).build();
}

bool is_embedding_or_head(const std::string& weight) {
  return weight == kEmbedding || weight == kHead;
}

}  // namespace metal_marlin
