#include "io/peft_adapter.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "base/finite.h"
#include "base/regex.h"
#include "io/json.h"
#include "io/model_folder.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

using Keys = std::string_view;

constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::int64_t kMostRank = 4096;

// What PeftConfig reads.
constexpr std::array<Keys, 8> kRead{"peft_type",     "r",    "lora_alpha",    "use_rslora", "rank_pattern",
                                    "alpha_pattern", "bias", "target_modules"};

// Of training; or which modules there are, which the tensors tell; or of layers of other kinds than a model here has
// (fan_in_fan_out: those of GPT-2).
constexpr std::array<Keys, 18> kHarmlessInAdapters{
    "task_type",      "auto_mapping",   "peft_version",     "base_model_name_or_path", "revision",
    "inference_mode", "lora_dropout",   "exclude_modules",  "layers_to_transform",     "layers_pattern",
    "loftq_config",   "eva_config",     "corda_config",     "megatron_core",           "qalora_group_size",
    "runtime_config", "fan_in_fan_out", "init_lora_weights"};

// Asked for by any other value than null, false and what is empty.
constexpr std::array<Keys, 11> kNotDone{"use_dora",
                                        "modules_to_save",
                                        "lora_bias",
                                        "layer_replication",
                                        "use_qalora",
                                        "target_parameters",
                                        "trainable_token_indices",
                                        "alora_invocation_tokens",
                                        "megatron_config",
                                        "arrow_config",
                                        "ensure_weight_tying"};

// Ways to begin training that leave the model's weights as they are.
constexpr std::array<Keys, 3> kPlainBeginnings{"gaussian", "eva", "orthogonal"};

template <std::size_t kSize>
bool is_among(const std::array<Keys, kSize>& keys, std::string_view key) {
  return std::find(keys.begin(), keys.end(), key) != keys.end();
}

bool asks_for_nothing(const Json& value) {
  return value.is_null() || value == Json(false) || ((value.is_array() || value.is_object()) && value.empty());
}

[[noreturn]] void refuse_field(const JsonObject& config, const std::string& key, std::string_view why) {
  std::string text = config.json().at(key).dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  throw Error(ErrorCode::kUnsupported, fmt::format("{}: field {} is {}, {}", config.where(), key, text, why));
}

void check_fields(const JsonObject& config) {
  for (const auto& [key, value] : config.json().items()) {
    if (is_among(kRead, key) || is_among(kHarmlessInAdapters, key) || value.is_null()) continue;
    if (!is_among(kNotDone, key))
      refuse_field(config, key, "which is not one that we know, so that the adapter might not be what it was");
    if (!asks_for_nothing(value)) refuse_field(config, key, "which is not done here");
  }
  if (config.string("peft_type") != "LORA") refuse_field(config, "peft_type", "expected LORA");
  if (config.string_or("bias", "none") != "none")
    refuse_field(config, "bias", "biases are not adapted here, expected none");
  if (!config.has("init_lora_weights")) return;
  const Json& beginning = config.at("init_lora_weights");
  if (!beginning.is_boolean() && !(beginning.is_string() && is_among(kPlainBeginnings, beginning.get<std::string>())))
    refuse_field(config, "init_lora_weights",
                 "which changes the model's own weights: save the adapter as one of the model as it was");
}

// A number for some modules, by patterns of their names' ends.
class PatternedNumber {
 public:
  PatternedNumber(const JsonObject& config, const char* patterns, double usual) : usual_(usual) {
    if (!config.has(patterns)) return;
    const JsonObject object = config.object(patterns);
    where_ = object.where();
    for (const auto& [key, value] : object.json().items()) {
      if (!value.is_number()) object.wrong(key.c_str(), "a number");
      patterns_.push_back({key, Regex("^(.*\\.)?(?:" + key + ")$", where_), value.get<double>()});
    }
  }
  [[nodiscard]] double of(const std::string& module) const {
    const Pattern* found = nullptr;
    for (const Pattern& pattern : patterns_) {
      if (!pattern.regex.search(module)) continue;
      if (found != nullptr && found->value != pattern.value) {
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("{}: {} and {} both name module {}", where_, found->text, pattern.text, module));
      }
      found = &pattern;
    }
    return found == nullptr ? usual_ : found->value;
  }

 private:
  struct Pattern {
    std::string text;
    Regex regex;
    double value;
  };
  double usual_;
  std::string where_;
  std::vector<Pattern> patterns_;
};

// The modules that PEFT puts an adapter on.
class Targets {
 public:
  explicit Targets(const JsonObject& config) {
    if (!config.has("target_modules")) return;
    const Json& value = config.at("target_modules");
    if (value.is_string()) {
      const auto text = value.get<std::string>();
      if (text != "all-linear") pattern_.emplace("^(?:" + text + ")$", config.where() + ": target_modules");
      return;
    }
    if (!value.is_array()) config.wrong("target_modules", "a list of names, or a pattern");
    for (const Json& name : value) {
      if (!name.is_string()) config.wrong("target_modules", "a list of names, or a pattern");
      names_.push_back(name.get<std::string>());
    }
  }
  [[nodiscard]] bool name(const std::string& module) const {
    if (pattern_) return pattern_->search(module);
    return names_.empty() || std::any_of(names_.begin(), names_.end(), [&](const std::string& each) {
             return module == each || module.ends_with("." + each);
           });
  }

 private:
  std::optional<Regex> pattern_;
  std::vector<std::string> names_;  // and no pattern: any
};

std::filesystem::path tensor_file(const std::filesystem::path& folder) {
  if (has_file(folder, "adapter_model.safetensors")) return file_in(folder, "adapter_model.safetensors");
  if (has_file(folder, "adapter_model.bin")) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: holds adapter_model.bin, which only Python can read; save it as safetensors",
                            folder.string()));
  }
  throw Error(ErrorCode::kNotFound, fmt::format("{}: adapter_model.safetensors is missing", folder.string()));
}

std::filesystem::path adapter_config(const std::filesystem::path& folder) {
  if (!std::filesystem::exists(folder))
    throw Error(ErrorCode::kNotFound, fmt::format("{}: no such file or folder", folder.string()));
  if (!std::filesystem::is_directory(folder)) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: expected a folder that PEFT saved an adapter in (adapter_config.json, "
                            "adapter_model.safetensors); adapters of other programs, GGUF's too, are not read",
                            folder.string()));
  }
  if (!has_file(folder, "adapter_config.json"))
    throw Error(ErrorCode::kNotFound, fmt::format("{}: adapter_config.json is missing", folder.string()));
  return file_in(folder, "adapter_config.json");
}

}  // namespace

PeftAdapter::PeftAdapter(const std::filesystem::path& folder) : config_(adapter_config(folder)) {
  const Json json = read_json_file(config_);
  const JsonObject config(json, config_.string());
  check_fields(config);
  file_ = std::make_unique<SafetensorsFile>(tensor_file(folder));
  const std::string where = file_->path().string();
  const auto refuse = [&](const std::string& name, std::string_view why) {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: tensor {}: {}", where, name, why));
  };
  const Targets targets(config);
  for (const auto& tensor : file_->tensors()) {
    const std::string& name = tensor.first;
    const DenseView& view = tensor.second;
    if (!is_float(view.dtype)) refuse(name, fmt::format("type {}, expected floats", dtype_name(view.dtype)));
    if (!name.starts_with(kPrefix)) refuse(name, fmt::format("expected a name that begins with {}", kPrefix));
    const std::string own = name.substr(kPrefix.size());
    const auto module_before = [&](std::string_view end) { return own.substr(0, own.size() - end.size()); };
    const auto put = [&](std::string_view end, auto& modules, const DenseView* PeftModule::*part) {
      if (!own.ends_with(end)) return false;
      const std::string module = module_before(end);
      if (!targets.name(module)) refuse(name, "target_modules of adapter_config.json does not name its module");
      if (view.shape.size() != 2) refuse(name, fmt::format("shape {}, expected a matrix", shape_text(view.shape)));
      modules[module].*part = &view;
      return true;
    };
    if (put(".lora_A.weight", linears_, &PeftModule::a) || put(".lora_B.weight", linears_, &PeftModule::b) ||
        put(".lora_embedding_A", embeddings_, &PeftModule::a) || put(".lora_embedding_B", embeddings_, &PeftModule::b))
      continue;
    if (own.ends_with(".base_layer.weight")) {
      base_weights_[module_before(".base_layer.weight") + ".weight"] = &view;
      continue;
    }
    refuse(name,
           "neither half of an adapter of low rank: magnitudes, biases and modules that were trained whole are "
           "not done here");
  }
  if (linears_.empty() && embeddings_.empty())
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: there is no adapter in it", where));
  const auto usual_rank = static_cast<double>(config.bounded("r", 1, kMostRank));
  const PatternedNumber ranks(config, "rank_pattern", usual_rank);
  const PatternedNumber alphas(config, "alpha_pattern", config.number_or("lora_alpha", 8));
  const bool by_root = config.boolean_or("use_rslora", false);
  for (auto* const modules : {&linears_, &embeddings_}) {
    for (auto& [module, pair] : *modules) {
      if (pair.a == nullptr || pair.b == nullptr) {
        throw Error(ErrorCode::kCorruptFile, fmt::format("{}: module {} has one half of an adapter, lora_{}, without "
                                                         "the other",
                                                         where, module, pair.a == nullptr ? "B" : "A"));
      }
      const double rank = ranks.of(module);
      pair.rank = pair.a->shape[0];
      if (static_cast<double>(pair.rank) != rank || pair.b->shape[1] != pair.rank) {
        throw Error(ErrorCode::kCorruptFile,
                    fmt::format("{}: module {}: lora_A is {} and lora_B is {}, adapter_config.json has rank {}", where,
                                module, shape_text(pair.a->shape), shape_text(pair.b->shape), rank));
      }
      pair.scale = alphas.of(module) / (by_root ? std::sqrt(rank) : rank);
      if (!std::isfinite(static_cast<float>(pair.scale)))
        throw Error(ErrorCode::kCorruptFile, fmt::format("{}: lora_alpha of module {} is too large", where, module));
    }
  }
}

std::vector<float> adapter_elements(const DenseView& view, const std::string& where) {
  const auto count = static_cast<std::size_t>(element_count(view.shape).value_or(0));
  std::vector<float> out(count);
  convert_to_f32(view.dtype, view.bytes, 0, count, out.data());
  if (!all_finite(out)) throw Error(ErrorCode::kCorruptFile, where + ": holds what is not a finite number");
  return out;
}

}  // namespace metal_marlin
