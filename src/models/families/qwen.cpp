// Qwen2 (arXiv 2407.10671; with experts, one of them for every token) and Qwen3 (2505.09388; norms of the heads of
// queries and keys), dense or with experts.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/families/experts.h"
#include "models/families/family.h"

namespace metal_marlin {
namespace {

constexpr FieldNames kQwenExpertNames{"num_experts", "num_local_experts"};

// Where use_sliding_window says so: in layers of the list's type or, without a list, those that `windowed` says, by
// max_window_layers. usual: of use_sliding_window, where it is left out.
using WindowedLayers = bool (*)(std::int64_t layer, std::int64_t max_window_layers);
std::vector<std::int64_t> qwen_windows(const JsonObject& config, std::int64_t layers, bool usual,
                                       WindowedLayers windowed) {
  std::vector<std::string> types = listed_layer_types(config, layers);
  const bool any = std::find(types.begin(), types.end(), kSlidingLayer) != types.end();
  const std::int64_t window = config.boolean_or("use_sliding_window", usual && any) ? window_or(config, 4096) : 0;
  if (any && window == 0)
    config.wrong("sliding_window", "a window, as layer_types has layers other than full_attention");
  const std::int64_t number = config.integer_or("max_window_layers", 28);
  for (auto i = static_cast<std::int64_t>(types.size()); i < layers; ++i)
    types.emplace_back(windowed(i, number) ? kSlidingLayer : kFullLayer);
  return windows_of(types, window);
}

bool is_behind(std::int64_t layer, std::int64_t max_window_layers) {
  return layer >= max_window_layers;
}
// As the reference implementation's Qwen2 with experts has it, otherwise than its other ones.
bool is_even_before(std::int64_t layer, std::int64_t max_window_layers) {
  return layer % 2 == 0 && layer < max_window_layers;
}

void describe_qwen2(const JsonObject& config, ModelConfig& out) {
  out.qkv_bias = true;
  out.windows = qwen_windows(config, out.layers, false, is_behind);
}

void describe_qwen3(const JsonObject& config, ModelConfig& out) {
  parse_attention_biases(config, false, out);
  out.qk_norm = QkNorm::kHeads;
  out.windows = qwen_windows(config, out.layers, true, is_behind);
}

MoeConfig parse_qwen_moe(const JsonObject& config, const char* count, const MoeConfig& usual) {
  MoeConfig moe;
  parse_experts(config, count, usual, moe);
  moe.normalize = config.boolean_or("norm_topk_prob", false);
  return moe;
}

std::vector<bool> parse_qwen_sparse(const JsonObject& config, std::int64_t layers) {
  const std::int64_t step = config.bounded_or("decoder_sparse_step", kDimensionBounds, 1);
  std::vector<bool> sparse(static_cast<std::size_t>(layers));
  for (std::int64_t i = 0; i < layers; ++i) sparse[static_cast<std::size_t>(i)] = (i + 1) % step == 0;
  if (!config.has("mlp_only_layers")) return sparse;
  if (!config.at("mlp_only_layers").is_array()) config.wrong("mlp_only_layers", "a list of layer numbers");
  for (const Json& layer : config.at("mlp_only_layers")) {
    if (!layer.is_number_integer()) config.wrong("mlp_only_layers", "a list of layer numbers");
    const auto number = layer.get<std::int64_t>();
    if (number >= 0 && number < layers) sparse[static_cast<std::size_t>(number)] = false;
  }
  return sparse;
}

void describe_qwen2_moe(const JsonObject& config, ModelConfig& out) {
  out.qkv_bias = config.boolean_or("qkv_bias", true);
  out.windows = qwen_windows(config, out.layers, false, is_even_before);
  out.moe = parse_qwen_moe(config, "num_experts", {.experts = 60, .top_k = 4, .intermediate = 1408});
  out.moe.shared_intermediate = config.bounded_or("shared_expert_intermediate_size", {0, kMaxDimension}, 5632);
  out.moe.shared_module = "shared_expert";
  out.moe.shared_gate = out.moe.shared_intermediate > 0;
  out.sparse = parse_qwen_sparse(config, out.layers);
}

// Its windows are of all layers, whatever a list says.
void describe_qwen3_moe(const JsonObject& config, ModelConfig& out) {
  parse_attention_biases(config, false, out);
  out.qk_norm = QkNorm::kHeads;
  if (config.boolean_or("use_sliding_window", false)) out.windows.assign(out.windows.size(), window_or(config, 4096));
  out.moe = parse_qwen_moe(config, counting_name(config, kQwenExpertNames),
                           {.experts = 128, .top_k = 8, .intermediate = 768});
  out.sparse = parse_qwen_sparse(config, out.layers);
}

}  // namespace

Family qwen_family() {
  static const std::vector<Architecture> kAll{{.name = "qwen2",
                                               .sizes = {151936, 4096, 22016, 32, 32, 32, std::nullopt, 32768, 1e-6},
                                               .describe = describe_qwen2,
                                               .neutral = {{"qkv_bias", "true"}},
                                               .by_layer_types = true},
                                              {.name = "qwen3",
                                               .sizes = {151936, 4096, 22016, 32, 32, 32, 128, 32768, 1e-6},
                                               .describe = describe_qwen3,
                                               .by_layer_types = true},
                                              {.name = "qwen2_moe",
                                               .sizes = {151936, 2048, 5632, 24, 16, 16, std::nullopt, 32768, 1e-6},
                                               .describe = describe_qwen2_moe,
                                               .keys = {"qkv_bias", "shared_expert_intermediate_size"},
                                               .by_layer_types = true},
                                              {.name = "qwen3_moe",
                                               .sizes = {151936, 2048, 6144, 24, 32, 4, std::nullopt, 32768, 1e-6},
                                               .describe = describe_qwen3_moe,
                                               .other_names = {kQwenExpertNames}}};
  return kAll;
}

}  // namespace metal_marlin
