#include "io/gguf_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "base/parse_number.h"
#include "io/gguf_tokenizer.h"
#include "io/model_bounds.h"
#include "io/tensor_names.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kLayerPrefix = "blk.";
constexpr std::int64_t kContext = 2048;  // where no key says it

// What tensors are called here and in the files of the reference implementation: outside of layers, and in one.
struct TensorName {
  std::string_view gguf;
  std::string_view hf;
};
constexpr std::array<TensorName, 3> kTopNames{
    {{"token_embd.", "model.embed_tokens."}, {"output_norm.", "model.norm."}, {"output.", "lm_head."}}};
constexpr std::array<TensorName, 15> kLayerNames{{{"attn_norm.", "input_layernorm."},
                                                  {"attn_q.", "self_attn.q_proj."},
                                                  {"attn_k.", "self_attn.k_proj."},
                                                  {"attn_v.", "self_attn.v_proj."},
                                                  {"attn_output.", "self_attn.o_proj."},
                                                  {"attn_q_norm.", "self_attn.q_norm."},
                                                  {"attn_k_norm.", "self_attn.k_norm."},
                                                  {"ffn_norm.", "post_attention_layernorm."},
                                                  {"ffn_gate.", "mlp.gate_proj."},
                                                  {"ffn_up.", "mlp.up_proj."},
                                                  {"ffn_down.", "mlp.down_proj."},
                                                  {"ffn_gate_inp.", "mlp.gate."},
                                                  {"ffn_gate_exps.", "mlp.experts.*.gate_proj."},
                                                  {"ffn_up_exps.", "mlp.experts.*.up_proj."},
                                                  {"ffn_down_exps.", "mlp.experts.*.down_proj."}}};

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
  // A count, which loops and buffers are made by.
  [[nodiscard]] std::int64_t bounded(std::string_view key, Bounds bounds) const {
    const std::int64_t value = integer(key);
    if (value < bounds.low || value > bounds.high)
      throw Error(ErrorCode::kCorruptFile, fmt::format("{}: key {} is {}, expected an integer from {} to {}",
                                                       gguf_.where, name(key), value, bounds.low, bounds.high));
    return value;
  }
  [[nodiscard]] std::int64_t bounded_or(std::string_view key, Bounds bounds, std::int64_t fallback) const {
    return find(key) ? bounded(key, bounds) : fallback;
  }
  [[nodiscard]] std::optional<double> number(std::string_view key) const {
    const auto value = gguf_.number(name(key));
    if (value && !std::isfinite(*value)) wrong(key, "a finite number");
    return value;
  }
  // One that is more than 0.
  [[nodiscard]] double positive_or(std::string_view key, double fallback) const {
    const double value = number(key).value_or(fallback);
    if (!(value > 0)) wrong(key, "a number above 0");
    return value;
  }
  [[noreturn]] void wrong(std::string_view key, std::string_view expected) const {
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: key {} is {}, expected {}", gguf_.where, name(key),
                                                     gguf_.text_of(name(key)), expected));
  }

 private:
  const Gguf& gguf_;
  std::string architecture_;
};

// Keys of the architecture that are read.
constexpr std::array<std::string_view, 23> kUsed{"context_length",
                                                 "embedding_length",
                                                 "block_count",
                                                 "feed_forward_length",
                                                 "vocab_size",
                                                 "attention.head_count",
                                                 "attention.head_count_kv",
                                                 "attention.key_length",
                                                 "attention.value_length",
                                                 "attention.layer_norm_rms_epsilon",
                                                 "rope.dimension_count",
                                                 "rope.freq_base",
                                                 "rope.scale_linear",
                                                 "rope.scaling.type",
                                                 "rope.scaling.factor",
                                                 "rope.scaling.original_context_length",
                                                 "rope.scaling.attn_factor",
                                                 "rope.scaling.yarn_ext_factor",
                                                 "rope.scaling.yarn_attn_factor",
                                                 "rope.scaling.yarn_beta_fast",
                                                 "rope.scaling.yarn_beta_slow",
                                                 "rope.scaling.finetuned",  // tells how the model was trained
                                                 "tensor_data_layout"};     // of the file that this one was made of

// The same of mixtures of experts.
constexpr std::array<std::string_view, 3> kUsedOfExperts{"expert_count", "expert_used_count",
                                                         "expert_feed_forward_length"};

// Keys that ask for nothing when they have one value.
struct NeutralKey {
  std::string_view key;
  double value;
};
constexpr std::array<NeutralKey, 23> kNeutral{{{"expert_count", 0},
                                               {"expert_used_count", 0},
                                               {"attention.sliding_window", 0},
                                               {"attention.causal", 1},
                                               {"attention.scale", 0},
                                               {"attention.clamp_kqv", 0},
                                               {"attention.max_alibi_bias", 0},
                                               {"use_parallel_residual", 0},
                                               {"logit_scale", 1},
                                               {"embedding_scale", 1},
                                               {"residual_scale", 1},
                                               {"final_logit_softcapping", 0},
                                               {"attn_logit_softcapping", 0},
                                               {"rope.scaling.yarn_log_multiplier", 0},
                                               {"nextn_predict_layers", 0},
                                               {"leading_dense_block_count", 0},
                                               {"expert_shared_count", 0},
                                               {"expert_shared_feed_forward_length", 0},
                                               {"expert_group_count", 0},
                                               {"expert_gating_func", 1},  // softmax
                                               {"expert_weights_norm", 1},
                                               {"expert_weights_scale", 0},
                                               {"expert_weights_scale", 1}}};

double as_number(const GgufValue& value) {
  if (const auto* const truth = std::get_if<bool>(&value)) return *truth ? 1 : 0;
  if (const auto* const number = std::get_if<double>(&value)) return *number;
  if (const auto* const number = std::get_if<std::int64_t>(&value)) return static_cast<double>(*number);
  if (const auto* const number = std::get_if<std::uint64_t>(&value)) return static_cast<double>(*number);
  return std::nan("");
}

// \throws Error (kUnsupported) naming a key that is neither used nor known to change nothing.
void check_keys(const Gguf& gguf, const std::string& architecture) {
  if (const auto type = gguf.string("general.type"); type && *type != "model")
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: key general.type is {}, expected a model", gguf.where, *type));
  for (const auto& [key, value] : gguf.values) {
    const bool own = key.starts_with(architecture + ".");
    if (!own && !key.starts_with("adapter.") && !key.starts_with("rope.")) continue;
    const std::string rest = own ? key.substr(architecture.size() + 1) : key;
    if (own && std::find(kUsed.begin(), kUsed.end(), rest) != kUsed.end()) continue;
    if (own && architecture == "qwen3moe" &&
        std::find(kUsedOfExperts.begin(), kUsedOfExperts.end(), rest) != kUsedOfExperts.end())
      continue;
    const double number = as_number(value);
    const bool neutral = std::any_of(kNeutral.begin(), kNeutral.end(), [&](const NeutralKey& known) {
      return known.key == rest && known.value == number;
    });
    if (own && neutral) continue;
    gguf.refuse(key);
  }
}

// Divisors of each pair's frequency; nothing where there is no such tensor.
std::vector<float> factors_of(const Gguf& gguf, std::string_view name, std::int64_t pairs) {
  const auto found = gguf.tensors.find(name);
  if (found == gguf.tensors.end()) return {};
  const GgufTensor& tensor = found->second;
  if (tensor.type != GgufType::kF32 || tensor.shape != Shape{pairs})
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: tensor {}: found {} {}, expected F32 [{}]", gguf.where, name,
                            gguf_type_info(tensor.type).name, shape_text(tensor.shape), pairs));
  std::vector<float> factors(static_cast<std::size_t>(pairs));
  convert_to_f32(DType::kF32, tensor.bytes, 0, factors.size(), factors.data());
  for (const float factor : factors) {
    if (!(factor > 0) || !std::isfinite(factor))
      throw Error(ErrorCode::kCorruptFile,
                  fmt::format("{}: tensor {}: factor {}, expected a positive number", gguf.where, name, factor));
  }
  return factors;
}

Json longrope(double theta, const std::vector<float>& shorter, const std::vector<float>& longer, double attention,
              std::int64_t original) {
  return {{"rope_type", "longrope"},
          {"rope_theta", theta},
          {"factor", 1.0},
          {"short_factor", shorter},
          {"long_factor", longer},
          {"attention_factor", attention},
          {"original_max_position_embeddings", original}};
}

// Llama 3.1 and later store the frequency divisors that its rope rule gave, not
// the rule. The rule's other constants have always been the same, so it follows
// from the last divisor; where the others are not what it gives they stand for themselves.
Json rope_of_factors(const std::vector<float>& factors, double theta) {
  constexpr double kOriginal = 8192;
  const auto original = static_cast<std::int64_t>(kOriginal);
  const double factor = factors.back();
  for (std::size_t i = 0; i < factors.size(); ++i) {
    const double wavelength =
        2 * std::numbers::pi * std::pow(theta, static_cast<double>(i) / static_cast<double>(factors.size()));
    double expected = 1;
    if (wavelength > kOriginal) {
      expected = factor;
    } else if (wavelength >= kOriginal / 4) {
      const double smooth = (kOriginal / wavelength - 1) / 3;
      expected = 1 / ((1 - smooth) / factor + smooth);
    }
    if (std::fabs(factors[i] - expected) > 1e-3 * expected) return longrope(theta, factors, factors, 1, original);
  }
  return {{"rope_type", "llama3"},  {"rope_theta", theta},     {"factor", factor},
          {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}, {"original_max_position_embeddings", original}};
}

// As llama.cpp has it: a factor without a type is linear, and YaRN's own temperature is multiplied by the file's.
Json rope_parameters(const Gguf& gguf, const Keys& keys, std::int64_t head_dim) {
  const double theta = keys.positive_or("rope.freq_base", 10000);
  const double linear = keys.number("rope.scale_linear").value_or(1);
  const double factor = keys.number("rope.scaling.factor").value_or(linear == 0 ? 1 : linear);
  const std::string type(gguf.string(keys.name("rope.scaling.type")).value_or("linear"));
  constexpr std::array<std::string_view, 4> kScalings{"none", "linear", "yarn", "longrope"};
  if (std::find(kScalings.begin(), kScalings.end(), type) == kScalings.end())
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: key {} is {}, expected none, linear, yarn or longrope",
                                                     gguf.where, keys.name("rope.scaling.type"), type));
  const std::int64_t original = keys.bounded_or("rope.scaling.original_context_length", {0, kPositionBounds.high},
                                                keys.bounded_or("context_length", kPositionBounds, kContext));
  const double attention =
      keys.number("rope.scaling.attn_factor").value_or(1) * keys.number("rope.scaling.yarn_attn_factor").value_or(1);
  const auto refuse = [&](std::string_view key, const std::string& what) {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: key {}: {}", gguf.where, keys.name(key), what));
  };
  const std::vector<float> shorter = factors_of(gguf, "rope_factors_short.weight", head_dim / 2);
  const std::vector<float> longer = factors_of(gguf, "rope_factors_long.weight", head_dim / 2);
  if (shorter.empty() != longer.empty()) refuse("rope.scaling.type", "factors for short or long sequences alone");
  if (!shorter.empty()) return longrope(theta, shorter, longer, attention, original);
  if (type == "longrope") refuse("rope.scaling.type", "longrope without rope_factors_long and rope_factors_short");
  const std::vector<float> factors = factors_of(gguf, "rope_freqs.weight", head_dim / 2);
  const bool scaled = type != "none" && factor != 1 && factor != 0;
  if (!factors.empty() && scaled) refuse("rope.scaling.factor", "scaling beside rope_freqs.weight");
  if (!factors.empty()) return rope_of_factors(factors, theta);
  if (type == "yarn") {
    if (const double extrapolation = keys.number("rope.scaling.yarn_ext_factor").value_or(1); extrapolation != 1)
      refuse("rope.scaling.yarn_ext_factor", fmt::format("{}, expected 1", extrapolation));
    Json rope = {{"rope_type", "yarn"},
                 {"rope_theta", theta},
                 {"factor", factor},
                 {"beta_fast", keys.number("rope.scaling.yarn_beta_fast").value_or(32)},
                 {"beta_slow", keys.number("rope.scaling.yarn_beta_slow").value_or(1)},
                 {"original_max_position_embeddings", original}};
    if (attention != 1) rope["attention_factor"] = attention * (factor > 1 ? 0.1 * std::log(factor) + 1 : 1);
    return rope;
  }
  if (attention != 1) refuse("rope.scaling.attn_factor", fmt::format("{} without yarn or longrope", attention));
  if (!scaled) return {{"rope_type", "default"}, {"rope_theta", theta}};
  return {{"rope_type", "linear"}, {"rope_theta", theta}, {"factor", factor}};
}

// Whether any layer has one of these biases: then the model has all of a set, and those that a file lacks are zero.
bool has_any(const Gguf& gguf, std::initializer_list<std::string_view> endings) {
  return std::any_of(gguf.tensors.begin(), gguf.tensors.end(), [&](const auto& tensor) {
    return std::any_of(endings.begin(), endings.end(),
                       [&](std::string_view end) { return tensor.first.ends_with(end); });
  });
}

struct Architecture {
  std::string_view name;  // of the file
  std::string_view model_type;
  std::string_view class_name;
};
constexpr std::array<Architecture, 3> kArchitectures{{{"llama", "llama", "LlamaForCausalLM"},
                                                      {"qwen3", "qwen3", "Qwen3ForCausalLM"},
                                                      {"qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM"}}};

const Architecture& architecture_of(const Gguf& gguf) {
  const auto name = gguf.string("general.architecture");
  if (!name) throw Error(ErrorCode::kNotFound, fmt::format("{}: key general.architecture is missing", gguf.where));
  const auto* const found = std::find_if(kArchitectures.begin(), kArchitectures.end(),
                                         [&](const Architecture& known) { return known.name == *name; });
  if (found != kArchitectures.end()) return *found;
  throw Error(
      ErrorCode::kUnsupported,
      fmt::format("{}: architecture {} is not one we implement; known: llama, qwen3, qwen3moe", gguf.where, *name));
}

// The number in "blk.12.attn_q.weight"; nothing where it is not written so.
std::optional<std::int64_t> block_of(const std::string& name) {
  const std::string number =
      name.substr(kLayerPrefix.size(), name.find('.', kLayerPrefix.size()) - kLayerPrefix.size());
  const auto block = parse_number<std::int64_t>(number);
  return block && *block >= 0 && std::to_string(*block) == number ? block : std::nullopt;
}

// block_count counts all blocks of a file, also those that predict further tokens (nextn_predict_layers): one that
// says fewer would leave some out of the model.
void check_blocks(const Gguf& gguf, const Keys& keys, std::int64_t blocks) {
  std::int64_t needed = 0;
  std::string last;
  for (auto at = gguf.tensors.lower_bound(kLayerPrefix);
       at != gguf.tensors.end() && at->first.starts_with(kLayerPrefix); ++at) {
    const auto block = block_of(at->first);
    if (!block)
      throw Error(ErrorCode::kCorruptFile,
                  fmt::format("{}: tensor {}: expected the number of a block after blk.", gguf.where, at->first));
    if (*block < needed) continue;
    needed = *block + 1;
    last = at->first;
  }
  if (needed > blocks)
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: key {} is {}, expected {} as there is tensor {}", gguf.where,
                                                     keys.name("block_count"), blocks, needed, last));
}

// The key that is wrong of those that say how wide heads are is the one that queries do not have.
void check_head_size(const Gguf& gguf, const Keys& keys, std::int64_t heads, std::int64_t head_dim) {
  const std::string source = keys.name(keys.find("attention.key_length") ? "attention.key_length" : "embedding_length");
  const auto queries = gguf.tensors.find("blk.0.attn_q.weight");
  if (queries != gguf.tensors.end() && queries->second.shape.size() == 2 &&
      queries->second.shape[0] != heads * head_dim)
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: key {} makes {} heads of {}, but tensor {} is {}", gguf.where, source, heads, head_dim,
                            queries->first, shape_text(queries->second.shape)));
  for (const char* const key : {"rope.dimension_count", "attention.value_length"}) {
    if (const std::int64_t found = keys.find(key).value_or(head_dim); found != head_dim)
      throw Error(ErrorCode::kUnsupported, fmt::format("{}: key {} is {}, expected {}, the size of heads by {}",
                                                       gguf.where, keys.name(key), found, head_dim, source));
  }
}

// As llama.cpp runs them: all layers have experts, whose weights add up to 1.
void add_experts(const Keys& keys, Json& config) {
  const std::int64_t experts = keys.bounded("expert_count", kExpertBounds);
  const std::int64_t used = keys.bounded("expert_used_count", {1, experts});
  config["num_experts"] = experts;
  config["num_experts_per_tok"] = used;
  config["moe_intermediate_size"] = keys.bounded_or("expert_feed_forward_length", kDimensionBounds,
                                                    keys.bounded("feed_forward_length", kDimensionBounds) / used);
  config["norm_topk_prob"] = true;
}

}  // namespace

Json gguf_config_json(const Gguf& gguf, const std::function<void(const std::string&)>& notice) {
  const Architecture& kind = architecture_of(gguf);
  const std::string architecture(kind.name);
  const Keys keys(gguf, architecture);
  check_keys(gguf, architecture);
  const std::int64_t blocks = keys.bounded("block_count", kLayerBounds);
  check_blocks(gguf, keys, blocks);
  const std::int64_t heads = keys.bounded("attention.head_count", kHeadBounds);
  const std::int64_t hidden = keys.bounded("embedding_length", kDimensionBounds);
  const std::int64_t head_dim = keys.bounded_or("attention.key_length", kHeadDimBounds, hidden / heads);
  check_head_size(gguf, keys, heads, head_dim);
  const auto embedding = gguf.tensors.find("token_embd.weight");
  const std::int64_t vocab = embedding != gguf.tensors.end() && embedding->second.shape.size() == 2
                                 ? embedding->second.shape.front()
                                 : keys.bounded("vocab_size", kDimensionBounds);
  if (const std::int64_t found = keys.bounded_or("vocab_size", kDimensionBounds, vocab); found != vocab)
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: key {} is {}, expected {}, the rows of token_embd.weight",
                                                     gguf.where, keys.name("vocab_size"), found, vocab));
  Json config = {
      {"architectures", Json::array({kind.class_name})},
      {"model_type", kind.model_type},
      {"vocab_size", vocab},
      {"hidden_size", hidden},
      {"intermediate_size", keys.bounded("feed_forward_length", kDimensionBounds)},
      {"num_hidden_layers", blocks},
      {"num_attention_heads", heads},
      {"num_key_value_heads", keys.bounded_or("attention.head_count_kv", kHeadBounds, heads)},
      {"head_dim", head_dim},
      {"max_position_embeddings", keys.bounded_or("context_length", kPositionBounds, kContext)},
      {"rms_norm_eps", keys.positive_or("attention.layer_norm_rms_epsilon", 1e-6)},
      {"hidden_act", "silu"},
      {"tie_word_embeddings", !gguf.tensors.contains("output.weight")},
      {"attention_bias", has_any(gguf, {".attn_q.bias", ".attn_k.bias", ".attn_v.bias", ".attn_output.bias"})},
      {"mlp_bias", has_any(gguf, {".ffn_gate.bias", ".ffn_up.bias", ".ffn_down.bias"})},
      {"rope_parameters", rope_parameters(gguf, keys, head_dim)},
      {"dtype", "float16"}};
  if (architecture == "qwen3moe") add_experts(keys, config);
  const GgufSpecialTokens tokens = gguf_special_tokens(gguf, notice);
  const Json ends = tokens.ends;
  config["eos_token_id"] = ends.empty() ? Json() : ends.size() == 1 ? ends[0] : ends;
  if (tokens.begin >= 0) config["bos_token_id"] = tokens.begin;
  return config;
}

bool is_gguf_side_tensor(const std::string& name) {
  return name == "rope_freqs.weight" || name == "rope_factors_short.weight" || name == "rope_factors_long.weight" ||
         name.ends_with(".rope_freqs.weight") || name.ends_with(".attn_rot_embd.weight");
}

std::optional<std::string> gguf_tensor_name(const std::string& name) {
  for (const auto& [gguf, hf] : kTopNames) {
    if (name.starts_with(gguf)) return std::string(hf) + name.substr(gguf.size());
  }
  if (!name.starts_with(kLayerPrefix)) return std::nullopt;
  const std::size_t dot = name.find('.', kLayerPrefix.size());
  if (dot == std::string::npos) return std::nullopt;
  const std::string rest = name.substr(dot + 1);
  for (const auto& [gguf, hf] : kLayerNames) {
    if (rest.starts_with(gguf))
      return fmt::format("{}{}.{}{}", kLayers, name.substr(kLayerPrefix.size(), dot - kLayerPrefix.size()), hf,
                         rest.substr(gguf.size()));
  }
  return std::nullopt;
}

std::string gguf_name_of(const std::string& hf_name) {
  for (const auto& [gguf, hf] : kTopNames) {
    if (hf_name.starts_with(hf)) return std::string(gguf) + hf_name.substr(hf.size());
  }
  const std::string_view layer = layer_of(hf_name);
  const std::string rest = hf_name.substr(layer.size());
  for (const auto& [gguf, hf] : kLayerNames) {
    const std::size_t star = hf.find('*');
    const std::string_view after = star == std::string_view::npos ? std::string_view() : hf.substr(star + 1);
    const std::size_t end = star == std::string_view::npos ? hf.size() : rest.find('.', star);
    if (end >= rest.size() || !rest.starts_with(hf.substr(0, star)) || rest.compare(end, after.size(), after) != 0)
      continue;
    return fmt::format("{}{}{}{}", kLayerPrefix, layer.substr(kLayers.size()), gguf, rest.substr(end + after.size()));
  }
  return hf_name;
}

std::vector<std::pair<std::string, GgufTensor>> gguf_weights(const Gguf& gguf, const std::string& name,
                                                             const std::string& hf_name, const GgufTensor& tensor) {
  const std::size_t star = hf_name.find('*');
  if (star == std::string::npos) return {{hf_name, tensor}};
  const std::int64_t experts = gguf.integer("qwen3moe.expert_count").value_or(0);
  if (tensor.shape.size() != 3 || tensor.shape[0] != experts || tensor.bytes.empty())
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: tensor {}: shape {}, expected matrices of {} experts",
                                                     gguf.where, name, shape_text(tensor.shape), experts));
  const std::size_t bytes = tensor.bytes.size() / static_cast<std::size_t>(experts);
  std::vector<std::pair<std::string, GgufTensor>> out;
  for (std::size_t i = 0; i < static_cast<std::size_t>(experts); ++i)
    out.emplace_back(
        fmt::format("{}{}{}", hf_name.substr(0, star), i, hf_name.substr(star + 1)),
        GgufTensor{tensor.type, {tensor.shape[1], tensor.shape[2]}, tensor.bytes.subspan(i * bytes, bytes)});
  return out;
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
