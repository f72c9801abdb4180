#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "io/checkpoint_kinds.h"
#include "io/column_packed.h"
#include "io/compressed_tensors.h"
#include "io/model_folder.h"
#include "io/packed_tensors.h"
#include "io/safetensors.h"
#include "io/tensor_names.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::array<const char*, 9> kTokenizerFiles{
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt",     "chat_template.jinja",   "chat_template.json",      "tokenizer.model"};

class HfCheckpoint final : public Checkpoint {
 public:
  HfCheckpoint(const std::filesystem::path& path, const CheckpointOptions& options) : folder_(path), tensors_(path) {
    std::set<std::string> parts;
    std::map<std::string, int> decoded;
    for (StoredWeight& stored : stored_weights()) {
      parts.insert(stored.parts.begin(), stored.parts.end());
      const bool as_stored = stored.info.packed || stored.info.stored_as == dtype_name(stored.info.dtype);
      if (!as_stored) ++decoded[stored.info.stored_as];
      std::string name = full_name(stored.info.name);
      const std::string tensor = stored.parts.front();
      if (!stored_.emplace(name, std::move(stored)).second) fail_twice(name, tensor);
    }
    for (const auto& [name, view] : tensors_.tensors()) {
      if (!parts.contains(name)) add_dense(name, view, options);
    }
    name_tied_embedding();
    for (auto& [name, stored] : stored_) {
      stored.info.name = name;
      weights_.push_back(stored.info);
    }
    for (const auto& [name, dense] : dense_) {
      const DenseView& view = dense.view;
      weights_.push_back(
          {name, view.shape, view.dtype, std::nullopt, view.bytes.size(), std::string(dtype_name(view.dtype))});
    }
    std::sort(weights_.begin(), weights_.end(),
              [](const WeightInfo& a, const WeightInfo& b) { return a.name < b.name; });
    for (const auto& [form, count] : decoded) {
      if (options.notice) options.notice(fmt::format("{}: {} tensors stored as {} become f16", where(), count, form));
    }
  }

  [[nodiscard]] const Json& config() const override { return folder_.config; }
  [[nodiscard]] const Json& generation_config() const override { return folder_.generation_config; }
  [[nodiscard]] std::string where() const override { return folder_.path.string(); }
  [[nodiscard]] std::string where(const std::string& name) const override {
    if (const auto stored = stored_.find(name); stored != stored_.end())
      return tensors_.where(stored->second.parts.front());
    const auto dense = dense_.find(name);
    return tensors_.where(dense == dense_.end() ? name : dense->second.tensor);
  }
  [[nodiscard]] std::string name_in_file(const std::string& name) const override {
    const auto dense = dense_.find(name);
    return dense == dense_.end() ? name : dense->second.tensor;
  }
  [[nodiscard]] const std::vector<WeightInfo>& weights() const override { return weights_; }
  void release() const override { tensors_.release(); }
  [[nodiscard]] std::string kind() const override { return kind_; }

  [[nodiscard]] std::vector<std::pair<std::string, std::string>> tokenizer_files() const override {
    return folder_.tokenizer_files();
  }

 private:
  [[nodiscard]] Weight read(const std::string& name, ThreadPool& pool) const override {
    const auto stored = stored_.find(name);
    if (stored != stored_.end()) return stored->second.load(pool);
    return {dense_.at(name).view, nullptr};
  }

  struct Dense {
    DenseView view;
    std::string tensor;  // of the files, which it is, or is a part of
  };

  // A tensor that no quantized weight is made of. Of two names for one weight the first counts, as in the reference
  // implementation; a weight that is quantized, or an expert that is stored together with others, too, has no such
  // rule.
  void add_dense(const std::string& name, const DenseView& view, const CheckpointOptions& options) {
    const std::string full = full_name(name);
    for (auto& [weight, part] : expert_weights(full, view, tensors_.where(name))) {
      const auto [found, added] = dense_.emplace(weight, Dense{part, name});
      if (stored_.contains(weight) || (!added && weight != full)) fail_twice(weight, name);
      if (added) continue;
      if (full_name(found->second.tensor) != full) fail_twice(weight, name);
      if (options.notice)
        options.notice(fmt::format("{}: tensor {} is not used, as {} of {} is the same weight", tensors_.where(name),
                                   name, found->second.tensor, tensors_.where(found->second.tensor)));
    }
  }

  [[noreturn]] void fail_twice(const std::string& weight, const std::string& name) const {
    const auto stored = stored_.find(weight);
    const std::string& other = stored == stored_.end() ? dense_.at(weight).tensor : stored->second.parts.front();
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: tensor {} is the same weight as {} of {}, expected one of them", tensors_.where(name),
                            name, other, tensors_.where(other)));
  }

  // One that is tied to the head may be stored under the head's name alone.
  void name_tied_embedding() {
    const JsonObject config(folder_.config, (folder_.path / "config.json").string());
    if (!config.boolean_or("tie_word_embeddings", false) || stored_.contains(kEmbeddingWeight) ||
        dense_.contains(kEmbeddingWeight)) {
      return;
    }
    const auto rename = [](auto& weights) {
      auto node = weights.extract(kHeadWeight);
      if (node.empty()) return;
      node.key() = kEmbeddingWeight;
      weights.insert(std::move(node));
    };
    rename(stored_);
    rename(dense_);
  }

  std::vector<StoredWeight> stored_weights() {
    std::vector<StoredWeight> out = quantized_weights();
    const JsonObject config(folder_.config, (folder_.path / "config.json").string());
    if (config.string_or("model_type", "") != "gpt_oss") return out;
    for (StoredWeight& weight : gpt_oss_experts(tensors_)) out.push_back(std::move(weight));
    return out;
  }

  // By what the configuration says.
  std::vector<StoredWeight> quantized_weights() {
    const JsonObject config(folder_.config, (folder_.path / "config.json").string());
    const char* const own = config.has("quantization") ? "quantization" : "quantization_config";
    if (!config.has(own) && folder_.quantize_config.is_null()) return {};
    static_cast<void>(config.either("quantization", "quantization_config"));  // MLX writes both
    const JsonObject json = config.has(own)
                                ? config.object(own)
                                : JsonObject(folder_.quantize_config, folder_.quantize_config_file.string());
    // What AutoGPTQ left alone is its own; MLX names no method.
    const bool alone = !config.has(own);
    const std::string method = json.string_or("quant_method", !alone                                        ? "mlx"
                                                              : json.has("w_bit") || json.has("zero_point") ? "awq"
                                                                                                            : "gptq");
    if (method == "metal-marlin") return kind_ = method, marlin_weights(tensors_, json);
    if (method == "compressed-tensors") return kind_ = method, compressed_weights(tensors_, json);
    if (method == "gptq") return kind_ = "GPTQ", gptq_weights(tensors_, json, folder_.module_rules());
    if (method == "awq") return kind_ = "AWQ", awq_weights(tensors_, json);
    if (method == "fp8") return kind_ = "FP8", fp8_weights(tensors_, json);
    if (method == "bitsandbytes") return kind_ = method, bitsandbytes_weights(tensors_, json);
    if (method == "mxfp4") return kind_ = "MXFP4", mxfp4_weights(tensors_, json);
    if (method == "mlx") return kind_ = "MLX", mlx_weights(tensors_, json);
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format("{}: field quant_method is '{}', expected metal-marlin, compressed-tensors, gptq, awq, fp8, "
                    "bitsandbytes, mxfp4 or mlx",
                    json.where(), method));
  }

  HfFolder folder_;
  SafetensorsFolder tensors_;
  std::string kind_ = "dense";
  std::map<std::string, StoredWeight> stored_;  // those that are not dense, by their full names
  std::map<std::string, Dense> dense_;          // the others
  std::vector<WeightInfo> weights_;
};

}  // namespace

HfFolder::HfFolder(const std::filesystem::path& folder) : path(folder), config(read_json_file(config_file(folder))) {
  if (has_file(path, "generation_config.json"))
    generation_config = read_json_file(file_in(path, "generation_config.json"));
  for (const char* const name : {"quantize_config.json", "quant_config.json"}) {
    if (!quantize_config.is_null() || !has_file(path, name)) continue;
    quantize_config_file = file_in(path, name);
    quantize_config = read_json_file(quantize_config_file);
  }
}

std::vector<std::pair<std::string, Json>> HfFolder::module_rules() const {
  const bool own = JsonObject(config, path.string()).has("quantization_config");
  const std::filesystem::path file = own ? file_in(path, "config.json") : quantize_config_file;
  const MappedFile text(file);
  const auto* const begin = reinterpret_cast<const char*>(text.bytes().data());
  OrderedJson json = OrderedJson::parse(begin, begin + text.bytes().size());
  if (own) json = OrderedJson(json.at("quantization_config"));
  std::vector<std::pair<std::string, Json>> rules;
  const Json plain(json);
  const JsonObject typed(plain, file.string() + (own ? ": quantization_config" : ""));
  if (!typed.has("dynamic")) return rules;
  static_cast<void>(typed.object("dynamic"));
  // Those that leave modules out go first, as in GPTQModel.
  for (const bool out : {true, false}) {
    for (const auto& [key, value] : json.at("dynamic").items())
      if (key.starts_with('-') == out) rules.emplace_back(key, Json(value));
  }
  return rules;
}

std::vector<std::pair<std::string, std::string>> HfFolder::tokenizer_files() const {
  std::vector<std::pair<std::string, std::string>> files;
  for (const char* const name : kTokenizerFiles) {
    if (has_file(path, name)) files.emplace_back(name, text_in(path, name));
  }
  return files;
}

std::unique_ptr<Checkpoint> open_hf_checkpoint(const std::filesystem::path& folder, const CheckpointOptions& options) {
  return std::make_unique<HfCheckpoint>(folder, options);
}

}  // namespace metal_marlin
