#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>

#include "io/checkpoint_kinds.h"
#include "io/column_packed.h"
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
  HfCheckpoint(const std::filesystem::path& path, const CheckpointOptions& options) : folder_(path), tensors_(path) {
    const JsonObject config(folder_.config, (path / "config.json").string());
    if (config.has("quantization_config")) quantization_.emplace(config.at("quantization_config"), config.where());
    for (const auto& [name, view] : tensors_.tensors()) describe(name, view);
    std::sort(weights_.begin(), weights_.end(),
              [](const WeightInfo& a, const WeightInfo& b) { return a.name < b.name; });
    if (!orders_.empty() && options.notice) {
      options.notice(fmt::format("{}: {} tensors whose inputs are grouped by activation order become f16", where(),
                                 orders_.size()));
    }
  }

  [[nodiscard]] const Json& config() const override { return folder_.config; }
  [[nodiscard]] const Json& generation_config() const override { return folder_.generation_config; }
  [[nodiscard]] std::string where() const override { return folder_.path.string(); }
  [[nodiscard]] std::string where(const std::string& name) const override { return tensors_.where(name); }
  [[nodiscard]] const std::vector<WeightInfo>& weights() const override { return weights_; }
  void release() const override { tensors_.release(); }
  [[nodiscard]] std::string kind() const override {
    if (!quantization_) return "dense";
    switch (quantization_->scheme()) {
      case PackScheme::kMetalMarlin: return "metal-marlin";
      case PackScheme::kCompressedTensors: return "compressed-tensors";
      case PackScheme::kAwq: return "AWQ";
      default: return "GPTQ";
    }
  }

  [[nodiscard]] Weight load(const std::string& name, ThreadPool& pool) const override {
    const WeightInfo* const info = find(name);
    if (info == nullptr) throw Error(ErrorCode::kNotFound, fmt::format("{}: tensor {} is missing", where(), name));
    const auto order = orders_.find(name);
    if (!info->packed && order == orders_.end()) return {*tensors_.find(name), nullptr};
    const std::string module = module_of(name);
    const PackScheme scheme = quantization_->scheme();
    const PackedModule described = *quantization_->find(module);
    LoadedPack pack = is_column_packed(scheme) ? load_column_packed(tensors_, scheme, module, described)
                                               : load_packed_tensors(tensors_, scheme, module, described);
    if (order == orders_.end()) return {pack.view, std::move(pack.owner)};
    const auto bytes = std::make_shared<std::vector<std::byte>>(decode_ordered(pack.view, order->second, pool));
    return {DenseView{DType::kF16, info->shape, *bytes}, bytes};
  }

  [[nodiscard]] std::vector<std::pair<std::string, std::string>> tokenizer_files() const override {
    return folder_.tokenizer_files();
  }

 private:
  [[nodiscard]] PackedModule shape_of(const std::string& module, const PackedModule& described) const {
    const PackScheme scheme = quantization_->scheme();
    if (is_column_packed(scheme)) return column_packed_module(tensors_, scheme, module, described);
    const PackedView view = load_packed_tensors(tensors_, scheme, module, described).view;
    return {view.spec, view.rows, view.cols};
  }

  void describe(const std::string& name, const DenseView& view) {
    const std::string module = module_of(name);
    const auto described = quantization_ ? quantization_->find(module) : std::nullopt;
    if (described && name == codes_entry(quantization_->scheme(), module, described->spec) &&
        (!name.ends_with(".weight") || tensors_.find(module + ".weight_scale") != nullptr)) {
      const PackedModule packed = shape_of(module, *described);
      const PackedLayout layout(packed.spec, packed.rows, packed.cols);
      std::vector<std::int32_t> order = group_order(tensors_, quantization_->scheme(), module, packed);
      WeightInfo info{module + ".weight", {packed.rows, packed.cols}, DType::kU8,
                      packed.spec,        layout.total_bytes(),       format_label(packed.spec)};
      if (!order.empty()) {
        info.dtype = DType::kF16;
        info.packed.reset();
        info.bytes += order.size() * sizeof(order.front());
        info.stored_as += " by activation order";
        orders_[info.name] = std::move(order);
      }
      weights_.push_back(std::move(info));
      return;
    }
    if (quantization_ && (is_side_entry(quantization_->scheme(), name) || name.ends_with(".weight_packed"))) return;
    weights_.push_back(
        {name, view.shape, view.dtype, std::nullopt, view.bytes.size(), std::string(dtype_name(view.dtype))});
  }

  HfFolder folder_;
  SafetensorsFolder tensors_;
  std::optional<QuantizationConfig> quantization_;
  std::vector<WeightInfo> weights_;
  std::map<std::string, std::vector<std::int32_t>> orders_;  // of weights whose groups are not neighbours
};

}  // namespace

HfFolder::HfFolder(const std::filesystem::path& folder) : path(folder), config(read_json_file(folder / "config.json")) {
  if (std::filesystem::exists(path / "generation_config.json"))
    generation_config = read_json_file(path / "generation_config.json");
}

std::vector<std::pair<std::string, std::string>> HfFolder::tokenizer_files() const {
  std::vector<std::pair<std::string, std::string>> files;
  for (const char* const name : kTokenizerFiles) {
    if (!std::filesystem::exists(path / name)) continue;
    const MappedFile file(path / name);
    files.emplace_back(name, std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()));
  }
  return files;
}

std::unique_ptr<Checkpoint> open_hf_checkpoint(const std::filesystem::path& folder, const CheckpointOptions& options) {
  return std::make_unique<HfCheckpoint>(folder, options);
}

}  // namespace metal_marlin
