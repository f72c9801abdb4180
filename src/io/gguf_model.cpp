#include "io/gguf_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/parse_number.h"
#include "io/gguf_keys.h"
#include "io/gguf_rope.h"
#include "io/gguf_tokenizer.h"
#include "io/tensor_names.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kLayerPrefix = "blk.";

// Outside of layers, and in one.
constexpr std::array<GgufName, 3> kTopNames{
    {{"token_embd.", "model.embed_tokens."}, {"output_norm.", "model.norm."}, {"output.", "lm_head."}}};
constexpr std::array<GgufName, 16> kLayerNames{{{"attn_norm.", "input_layernorm."},
                                                {"attn_qkv.", "self_attn.qkv_proj."},
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

// Keys of the architecture that are read.
constexpr std::array<std::string_view, 22> kUsed{"context_length",
                                                 "embedding_length",
                                                 "block_count",
                                                 "feed_forward_length",
                                                 "vocab_size",
                                                 "attention.head_count",
                                                 "attention.head_count_kv",
                                                 "attention.key_length",
                                                 "attention.value_length",
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
void check_keys(const Gguf& gguf, const GgufArchitecture& kind) {
  if (const auto type = gguf.string("general.type"); type && *type != "model")
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: key general.type is {}, expected a model", gguf.where, *type));
  const std::string prefix = fmt::format("{}.", kind.name);
  for (const auto& [key, value] : gguf.values) {
    const bool own = key.starts_with(prefix);
    if (!own && !key.starts_with("adapter.") && !key.starts_with("rope.")) continue;
    const std::string rest = own ? key.substr(prefix.size()) : key;
    const auto holds = [&](const auto& keys) { return std::find(keys.begin(), keys.end(), rest) != keys.end(); };
    if (own && (holds(kUsed) || holds(kind.keys) || rest == kind.eps_key)) continue;
    const double number = as_number(value);
    const bool neutral = std::any_of(kNeutral.begin(), kNeutral.end(), [&](const NeutralKey& known) {
      return known.key == rest && known.value == number;
    });
    if (own && neutral) continue;
    gguf.refuse(key);
  }
}

// Whether any layer has one of these biases: then the model has all of a set, and those that a file lacks are zero.
bool has_any(const Gguf& gguf, std::initializer_list<std::string_view> endings) {
  return std::any_of(gguf.tensors.begin(), gguf.tensors.end(), [&](const auto& tensor) {
    return std::any_of(endings.begin(), endings.end(),
                       [&](std::string_view end) { return tensor.first.ends_with(end); });
  });
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
void check_blocks(const GgufKeys& keys, std::int64_t blocks) {
  const Gguf& gguf = keys.gguf();
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

// Of latent attention, the elements of a head that are rotated; what else heads are made of is the architecture's.
std::int64_t rotated_of_latents(const GgufKeys& keys) {
  const std::int64_t rotated = keys.bounded("rope.dimension_count", kHeadDimBounds);
  if (rotated % 2 != 0) keys.wrong("rope.dimension_count", "an even number");
  return rotated;
}

// The key that is wrong of those that say how wide heads are is the one that queries do not have. Gives the elements of
// a head that are rotated.
std::int64_t check_head_size(const GgufKeys& keys, const GgufArchitecture& kind, std::int64_t heads,
                             std::int64_t head_dim) {
  const Gguf& gguf = keys.gguf();
  const std::string suffix(kind.head_suffix);
  const std::string key_length = "attention.key_length" + suffix;
  const std::string source = keys.find(key_length) ? keys.name(key_length)
                                                   : fmt::format("{} over {}", keys.name("embedding_length"),
                                                                 keys.name("attention.head_count"));
  const auto queries = gguf.tensors.find("blk.0.attn_q.weight");
  if (suffix.empty() && queries != gguf.tensors.end() && queries->second.shape.size() == 2 &&
      queries->second.shape[0] != heads * head_dim)
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: key {} makes {} heads of {}, but tensor {} is {}", gguf.where, source, heads, head_dim,
                            queries->first, shape_text(queries->second.shape)));
  if (keys.find("attention.value_length" + suffix).value_or(head_dim) != head_dim)
    keys.unsupported("attention.value_length" + suffix, fmt::format("{}, the size of heads by {}", head_dim, source));
  const std::string key = "rope.dimension_count" + suffix;
  const std::int64_t rotated = keys.find(key).value_or(head_dim);
  if (kind.partial) {
    if (rotated < 2 || rotated > head_dim || rotated % 2 != 0)
      keys.wrong(key, fmt::format("an even number from 2 to {}, the size of heads by {}", head_dim, source));
  } else if (rotated != head_dim) {
    keys.unsupported(key, fmt::format("{}, the size of heads by {}", head_dim, source));
  }
  return rotated;
}

std::int64_t vocabulary(const GgufKeys& keys) {
  const Gguf& gguf = keys.gguf();
  const auto embedding = gguf.tensors.find("token_embd.weight");
  const std::int64_t vocab = embedding != gguf.tensors.end() && embedding->second.shape.size() == 2
                                 ? embedding->second.shape.front()
                                 : keys.bounded("vocab_size", kDimensionBounds);
  if (keys.bounded_or("vocab_size", kDimensionBounds, vocab) != vocab)
    keys.wrong("vocab_size", fmt::format("{}, the rows of token_embd.weight", vocab));
  return vocab;
}

std::vector<GgufName> top_names(const GgufArchitecture& kind) {
  std::vector<GgufName> names(kTopNames.begin(), kTopNames.end());
  names.insert(names.end(), kind.top_names.begin(), kind.top_names.end());
  return names;
}

// Of the names of layers' tensors, those of the architecture count before those of all.
const GgufName* find_name(const GgufArchitecture& kind, const std::function<bool(const GgufName&)>& is) {
  const auto own = std::find_if(kind.names.begin(), kind.names.end(), is);
  if (own != kind.names.end()) return &*own;
  const auto* const common = std::find_if(kLayerNames.begin(), kLayerNames.end(), is);
  return common == kLayerNames.end() ? nullptr : common;
}

}  // namespace

Json gguf_config_json(const Gguf& gguf, const std::function<void(const std::string&)>& notice) {
  const GgufArchitecture& kind = gguf_architecture(gguf);
  const GgufKeys keys(gguf, kind.name);
  check_keys(gguf, kind);
  const std::int64_t blocks = keys.bounded("block_count", kLayerBounds);
  check_blocks(keys, blocks);
  const std::int64_t heads = keys.bounded("attention.head_count", kHeadBounds);
  const std::int64_t hidden = keys.bounded("embedding_length", kDimensionBounds);
  const std::int64_t head_dim = kind.latent ? rotated_of_latents(keys)
                                            : keys.bounded_or(fmt::format("attention.key_length{}", kind.head_suffix),
                                                              kHeadDimBounds, hidden / heads);
  const std::int64_t rotated = kind.latent ? head_dim : check_head_size(keys, kind, heads, head_dim);
  const std::int64_t key_heads = !kind.head_suffix.empty() || !keys.has("attention.head_count_kv")
                                     ? heads
                                     : keys.of_all_layers("attention.head_count_kv", kHeadBounds, blocks);
  Json config = {{"architectures", Json::array({kind.class_name})},
                 {"model_type", kind.model_type},
                 {"vocab_size", vocabulary(keys)},
                 {"hidden_size", hidden},
                 {"intermediate_size", keys.of_layers("feed_forward_length", kDimensionBounds, blocks).front()},
                 {"num_hidden_layers", blocks},
                 {"num_attention_heads", heads},
                 {"num_key_value_heads", key_heads},
                 {"head_dim", head_dim},
                 {"max_position_embeddings", keys.bounded_or("context_length", kPositionBounds, kGgufContext)},
                 {"rms_norm_eps", keys.positive_or(kind.eps_key, 1e-6)},
                 {"hidden_act", "silu"},
                 {"tie_word_embeddings", !gguf.tensors.contains("output.weight")},
                 {"attention_bias", has_any(gguf, {".attn_q.bias", ".attn_k.bias", ".attn_v.bias", ".attn_qkv.bias",
                                                   ".attn_output.bias"})},
                 {"mlp_bias", has_any(gguf, {".ffn_gate.bias", ".ffn_up.bias", ".ffn_down.bias"})},
                 {"dtype", "float16"}};
  if (kind.head_suffix.empty()) {
    static_cast<void>(keys.of_all_layers("feed_forward_length", kDimensionBounds, blocks));
    config["rope_parameters"] = gguf_rope_parameters(keys, rotated, head_dim);
  }
  if (kind.add != nullptr) kind.add(keys, config);
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

std::optional<std::string> gguf_tensor_name(const GgufArchitecture& kind, const std::string& name) {
  for (const auto& [gguf, hf] : top_names(kind)) {
    if (name.starts_with(gguf)) return std::string(hf) + name.substr(gguf.size());
  }
  if (!name.starts_with(kLayerPrefix)) return std::nullopt;
  const std::size_t dot = name.find('.', kLayerPrefix.size());
  if (dot == std::string::npos) return std::nullopt;
  const std::string rest = name.substr(dot + 1);
  const GgufName* const known = find_name(kind, [&](const GgufName& entry) { return rest.starts_with(entry.gguf); });
  if (known == nullptr) return std::nullopt;
  return fmt::format("{}{}.{}{}", kLayers, name.substr(kLayerPrefix.size(), dot - kLayerPrefix.size()), known->hf,
                     rest.substr(known->gguf.size()));
}

std::string gguf_name_of(const GgufArchitecture& kind, const std::string& hf_name) {
  for (const auto& [gguf, hf] : top_names(kind)) {
    if (hf_name.starts_with(hf)) return std::string(gguf) + hf_name.substr(hf.size());
  }
  const std::string_view layer = layer_of(hf_name);
  const std::string rest = hf_name.substr(layer.size());
  std::size_t length = 0;  // of what the name stands for
  const GgufName* const known = find_name(kind, [&](const GgufName& entry) {
    const std::string_view hf = entry.hf;
    const std::size_t star = hf.find('*');
    const std::string_view after = star == std::string_view::npos ? std::string_view() : hf.substr(star + 1);
    const std::size_t end = star == std::string_view::npos ? hf.size() : rest.find('.', star);
    length = end + after.size();
    return end <= rest.size() && rest.starts_with(hf.substr(0, star)) && rest.compare(end, after.size(), after) == 0;
  });
  if (known == nullptr) return hf_name;
  return fmt::format("{}{}{}{}", kLayerPrefix, layer.substr(kLayers.size()), known->gguf, rest.substr(length));
}

std::vector<std::pair<std::string, GgufTensor>> gguf_weights(const Gguf& gguf, const std::string& name,
                                                             const std::string& hf_name, const GgufTensor& tensor) {
  const std::size_t star = hf_name.find('*');
  // Of a single row, which the converter writes as a vector.
  if (tensor.shape.size() == 1 && hf_name.ends_with(".shared_expert_gate.weight"))
    return {{hf_name, GgufTensor{tensor.type, {1, tensor.shape[0]}, tensor.bytes}}};
  if (star == std::string::npos) return {{hf_name, tensor}};
  const std::string count = fmt::format("{}.expert_count", gguf.string("general.architecture").value_or(""));
  const std::int64_t experts = gguf.integer(count).value_or(0);
  const bool bias = hf_name.ends_with(".bias");
  const std::size_t rank = bias ? 2 : 3;
  if (tensor.shape.size() != rank || tensor.shape[0] != experts || tensor.bytes.empty())
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: tensor {}: shape {}, expected {} of {} experts", gguf.where, name,
                            shape_text(tensor.shape), bias ? "biases" : "matrices", experts));
  const std::size_t bytes = tensor.bytes.size() / static_cast<std::size_t>(experts);
  std::vector<std::pair<std::string, GgufTensor>> out;
  for (std::size_t i = 0; i < static_cast<std::size_t>(experts); ++i)
    out.emplace_back(fmt::format("{}{}{}", hf_name.substr(0, star), i, hf_name.substr(star + 1)),
                     GgufTensor{tensor.type, Shape(tensor.shape.begin() + 1, tensor.shape.end()),
                                tensor.bytes.subspan(i * bytes, bytes)});
  return out;
}

std::int64_t gguf_rope_row(std::int64_t row, std::int64_t head_dim) {
  const std::int64_t head = row / head_dim;
  const std::int64_t within = row % head_dim;
  const std::int64_t half = head_dim / 2;
  return head * head_dim + (within % half) * 2 + within / half;
}

RowMap gguf_row_map(const GgufArchitecture& kind, const Json& config, const std::string& hf_name) {
  const auto is = [&](std::string_view module) { return hf_name.find(module) != std::string::npos; };
  if (!kind.pairs || !(is(".self_attn.q_proj.") || is(".self_attn.k_proj.") || is(".self_attn.qkv_proj."))) return {};
  const auto number = [&](const char* key) { return config.at(key).get<std::int64_t>(); };
  const std::int64_t head_dim = number("head_dim");
  // Values follow queries and keys where they are stored as one.
  const std::int64_t rotated = (number("num_attention_heads") + number("num_key_value_heads")) * head_dim;
  return [=](std::int64_t row) { return row < rotated ? gguf_rope_row(row, head_dim) : row; };
}

bool gguf_is_unread(const Json& config, const std::string& hf_name) {
  const std::int64_t shared = config.value("num_kv_shared_layers", std::int64_t{0});
  if (shared == 0) return false;
  const std::string_view layer = layer_of(hf_name);
  const std::string_view rest = std::string_view(hf_name).substr(layer.size());
  constexpr std::array<std::string_view, 3> kOfKeys{"self_attn.k_proj.", "self_attn.v_proj.", "self_attn.k_norm."};
  if (layer.empty() ||
      std::none_of(kOfKeys.begin(), kOfKeys.end(), [&](std::string_view module) { return rest.starts_with(module); }))
    return false;
  const auto number =
      parse_number<std::int64_t>(std::string(layer.substr(kLayers.size(), layer.size() - kLayers.size() - 1)));
  return number && *number >= config.at("num_hidden_layers").get<std::int64_t>() - shared;
}

bool gguf_is_one_more(const GgufArchitecture& kind, const std::string& hf_name) {
  return kind.one_more && hf_name.ends_with("norm.weight");
}

}  // namespace metal_marlin
