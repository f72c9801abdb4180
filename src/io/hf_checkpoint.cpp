#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "io/checkpoint_kinds.h"
#include "io/packed_tensors.h"
#include "io/safetensors.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::array<const char*, 9> kTokenizerFiles{
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt",     "chat_template.jinja",   "chat_template.json",      "tokenizer.model"};

std::string module_of(const std::string& name) {
  const std::size_t dot = name.rfind('.');
  return dot == std::string::npos ? name : name.substr(0, dot);
}

class HfCheckpoint final : public Checkpoint {
 public:
  explicit HfCheckpoint(const std::filesystem::path& path)
      : path_(path), config_(read_json_file(path / "config.json")), tensors_(path) {
    if (std::filesystem::exists(path / "generation_config.json"))
      generation_ = read_json_file(path / "generation_config.json");
    const JsonObject config(config_, (path / "config.json").string());
    if (config.has("quantization_config")) quantization_.emplace(config.at("quantization_config"), config.where());
    for (const auto& [name, view] : tensors_.tensors()) describe(name, view);
    std::sort(weights_.begin(), weights_.end(),
              [](const WeightInfo& a, const WeightInfo& b) { return a.name < b.name; });
  }

  [[nodiscard]] const Json& config() const override { return config_; }
  [[nodiscard]] const Json& generation_config() const override { return generation_; }
  [[nodiscard]] std::string where() const override { return path_.string(); }
  [[nodiscard]] std::string where(const std::string& name) const override { return tensors_.where(name); }
  [[nodiscard]] const std::vector<WeightInfo>& weights() const override { return weights_; }
  [[nodiscard]] std::string kind() const override {
    if (!quantization_) return "dense";
    return quantization_->scheme() == PackScheme::kMetalMarlin ? "metal-marlin" : "compressed-tensors";
  }

  [[nodiscard]] Weight load(const std::string& name, ThreadPool&) const override {
    const WeightInfo* const info = find(name);
    if (info == nullptr)
      throw Error(ErrorCode::kNotFound, fmt::format("{}: tensor {} is missing", path_.string(), name));
    if (!info->packed) return {*tensors_.find(name), nullptr};
    const std::string module = module_of(name);
    LoadedPack pack = load_packed_tensors(tensors_, quantization_->scheme(), module, *quantization_->find(module));
    return {pack.view, std::move(pack.owner)};
  }

  [[nodiscard]] std::vector<std::pair<std::string, std::string>> tokenizer_files() const override {
    std::vector<std::pair<std::string, std::string>> files;
    for (const char* const name : kTokenizerFiles) {
      if (!std::filesystem::exists(path_ / name)) continue;
      const MappedFile file(path_ / name);
      files.emplace_back(name, std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()));
    }
    return files;
  }

 private:
  void describe(const std::string& name, const DenseView& view) {
    const std::string module = module_of(name);
    const auto described = quantization_ ? quantization_->find(module) : std::nullopt;
    if (described && name == codes_entry(quantization_->scheme(), module, described->spec) &&
        (name.ends_with(".weight_packed") || tensors_.find(module + ".weight_scale") != nullptr)) {
      const LoadedPack pack = load_packed_tensors(tensors_, quantization_->scheme(), module, *described);
      const PackedLayout layout(pack.view.spec, pack.view.rows, pack.view.cols);
      weights_.push_back({module + ".weight",
                          {pack.view.rows, pack.view.cols},
                          DType::kU8,
                          pack.view.spec,
                          layout.total_bytes(),
                          std::string(format_info(pack.view.spec.format).name)});
      return;
    }
    if (quantization_ && (is_side_entry(name) || name.ends_with(".weight_packed"))) return;
    weights_.push_back(
        {name, view.shape, view.dtype, std::nullopt, view.bytes.size(), std::string(dtype_name(view.dtype))});
  }

  std::filesystem::path path_;
  Json config_;
  Json generation_;
  SafetensorsFolder tensors_;
  std::optional<QuantizationConfig> quantization_;
  std::vector<WeightInfo> weights_;
};

}  // namespace

std::unique_ptr<Checkpoint> open_hf_checkpoint(const std::filesystem::path& folder) {
  return std::make_unique<HfCheckpoint>(folder);
}

}  // namespace metal_marlin
