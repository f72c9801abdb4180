#include "io/gguf_model.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

class Keys {
 public:
  Keys(const Gguf& gguf, std::string architecture) : gguf_(gguf), architecture_(std::move(architecture)) {}

  [[nodiscard]] std::string name(std::string_view key) const { return fmt::format("{}.{}", architecture_, key); }
  [[nodiscard]] std::optional<std::int64_t> find(std::string_view key) const { return gguf_.integer(name(key)); }
  [[nodiscard]] std::int64_t integer(std::string_view key) const {
    const auto value = find(key);
    if (!value) throw Error(ErrorCode::kNotFound, fmt::format("{}: key {} is missing", gguf_.where, name(key)));
    return *value;
  }
  [[nodiscard]] std::optional<double> number(std::string_view key) const { return gguf_.number(name(key)); }

 private:
  const Gguf& gguf_;
  std::string architecture_;
};

// Llama 3.1 and later store the frequency divisors that its rope rule gave, not
// the rule. The rule's other constants have always been the same, so it follows
// from the last divisor; the others check it.
Json llama3_rope(const Gguf& gguf, const GgufTensor& tensor, double theta) {
  const auto half = static_cast<std::size_t>(tensor.shape.empty() ? 0 : tensor.shape.back());
  if (tensor.type != GgufType::kF32 || half == 0) {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: tensor rope_freqs.weight: expected F32 factors", gguf.where));
  }
  std::vector<float> factors(half);
  convert_to_f32(DType::kF32, tensor.bytes, 0, half, factors.data());
  constexpr double kOriginal = 8192;
  const double factor = factors.back();
  for (std::size_t i = 0; i < half; ++i) {
    const double wavelength =
        2 * std::numbers::pi * std::pow(theta, static_cast<double>(i) / static_cast<double>(half));
    double expected = 1;
    if (wavelength > kOriginal) {
      expected = factor;
    } else if (wavelength >= kOriginal / 4) {
      const double smooth = (kOriginal / wavelength - 1) / 3;
      expected = 1 / ((1 - smooth) / factor + smooth);
    }
    if (std::fabs(factors[i] - expected) > 1e-3 * expected) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: tensor rope_freqs.weight: factor {} is {}, the llama3 rule gives {}", gguf.where, i,
                              factors[i], expected));
    }
  }
  return {{"rope_type", "llama3"},   {"rope_theta", theta},
          {"factor", factor},        {"low_freq_factor", 1.0},
          {"high_freq_factor", 4.0}, {"original_max_position_embeddings", static_cast<std::int64_t>(kOriginal)}};
}

Json rope_parameters(const Gguf& gguf, const Keys& keys) {
  const double theta = keys.number("rope.freq_base").value_or(10000);
  const auto factors = gguf.tensors.find("rope_freqs.weight");
  if (factors != gguf.tensors.end()) return llama3_rope(gguf, factors->second, theta);
  const std::string type(gguf.string(keys.name("rope.scaling.type")).value_or("none"));
  Json rope = {{"rope_type", "default"}, {"rope_theta", theta}};
  if (type == "none") return rope;
  rope["rope_type"] = type;
  rope["factor"] = keys.number("rope.scaling.factor").value_or(1);
  if (const auto original = keys.find("rope.scaling.original_context_length")) {
    rope["original_max_position_embeddings"] = *original;
  }
  if (const auto scale = keys.number("rope.scaling.attn_factor")) rope["attention_factor"] = *scale;
  return rope;
}

}  // namespace

Json gguf_config_json(const Gguf& gguf) {
  const auto found = gguf.string("general.architecture");
  if (!found) throw Error(ErrorCode::kNotFound, fmt::format("{}: key general.architecture is missing", gguf.where));
  const std::string architecture(*found);
  if (architecture != "llama" && architecture != "qwen3") {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: architecture {} is not one we implement; known: llama, qwen3",
                                                     gguf.where, architecture));
  }
  const Keys keys(gguf, architecture);
  if (keys.find("expert_count").value_or(0) != 0) {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: key {}: experts are not implemented for this architecture",
                                                     gguf.where, keys.name("expert_count")));
  }
  const bool qwen3 = architecture == "qwen3";
  const std::int64_t heads = keys.integer("attention.head_count");
  const std::int64_t hidden = keys.integer("embedding_length");
  const std::int64_t head_dim = keys.find("attention.key_length").value_or(heads > 0 ? hidden / heads : 0);
  if (keys.find("rope.dimension_count").value_or(head_dim) != head_dim ||
      keys.find("attention.value_length").value_or(head_dim) != head_dim) {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: key {}: expected the head size {}", gguf.where,
                                                     keys.name("rope.dimension_count"), head_dim));
  }
  const auto embedding = gguf.tensors.find("token_embd.weight");
  const std::int64_t vocab = embedding != gguf.tensors.end() && embedding->second.shape.size() == 2
                                 ? embedding->second.shape.front()
                                 : keys.integer("vocab_size");
  Json config = {{"architectures", Json::array({qwen3 ? "Qwen3ForCausalLM" : "LlamaForCausalLM"})},
                 {"model_type", architecture},
                 {"vocab_size", vocab},
                 {"hidden_size", hidden},
                 {"intermediate_size", keys.integer("feed_forward_length")},
                 {"num_hidden_layers", keys.integer("block_count")},
                 {"num_attention_heads", heads},
                 {"num_key_value_heads", keys.find("attention.head_count_kv").value_or(heads)},
                 {"head_dim", head_dim},
                 {"max_position_embeddings", keys.find("context_length").value_or(2048)},
                 {"rms_norm_eps", keys.number("attention.layer_norm_rms_epsilon").value_or(1e-6)},
                 {"hidden_act", "silu"},
                 {"tie_word_embeddings", !gguf.tensors.contains("output.weight")},
                 {"attention_bias", gguf.tensors.contains("blk.0.attn_output.bias")},
                 {"mlp_bias", gguf.tensors.contains("blk.0.ffn_down.bias")},
                 {"rope_parameters", rope_parameters(gguf, keys)},
                 {"dtype", "float16"}};
  Json ends = Json::array();
  for (const char* const key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    if (const auto id = gguf.integer(key)) ends.push_back(*id);
  }
  if (!ends.empty()) config["eos_token_id"] = ends.size() == 1 ? ends[0] : ends;
  if (const auto id = gguf.integer("tokenizer.ggml.bos_token_id")) config["bos_token_id"] = *id;
  return config;
}

std::optional<std::string> gguf_tensor_name(const std::string& name) {
  static constexpr std::array<std::array<std::string_view, 2>, 3> kTop{
      {{"token_embd.", "model.embed_tokens."}, {"output_norm.", "model.norm."}, {"output.", "lm_head."}}};
  static constexpr std::array<std::array<std::string_view, 2>, 11> kLayer{{{"attn_norm.", "input_layernorm."},
                                                                           {"attn_q.", "self_attn.q_proj."},
                                                                           {"attn_k.", "self_attn.k_proj."},
                                                                           {"attn_v.", "self_attn.v_proj."},
                                                                           {"attn_output.", "self_attn.o_proj."},
                                                                           {"attn_q_norm.", "self_attn.q_norm."},
                                                                           {"attn_k_norm.", "self_attn.k_norm."},
                                                                           {"ffn_norm.", "post_attention_layernorm."},
                                                                           {"ffn_gate.", "mlp.gate_proj."},
                                                                           {"ffn_up.", "mlp.up_proj."},
                                                                           {"ffn_down.", "mlp.down_proj."}}};
  for (const auto& [from, to] : kTop) {
    if (name.starts_with(from)) return std::string(to) + name.substr(from.size());
  }
  if (name.starts_with("blk.")) {
    const std::size_t dot = name.find('.', 4);
    if (dot != std::string::npos) {
      const std::string rest = name.substr(dot + 1);
      for (const auto& [from, to] : kLayer) {
        if (rest.starts_with(from))
          return fmt::format("model.layers.{}.{}{}", name.substr(4, dot - 4), to, rest.substr(from.size()));
      }
    }
  }
  return std::nullopt;
}

bool gguf_permutes(const Json& config, const std::string& name) {
  return config.at("model_type") == "llama" &&
         (name.find(".self_attn.q_proj.") != std::string::npos || name.find(".self_attn.k_proj.") != std::string::npos);
}

std::int64_t gguf_rope_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t head = row / head_dim;
  const std::int64_t within = row % head_dim;
  const std::int64_t half = head_dim / 2;
  return head * head_dim + (within % half) * 2 + within / half;
}

}  // namespace metal_marlin
