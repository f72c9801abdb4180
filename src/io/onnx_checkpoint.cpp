#include <fmt/format.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "base/thread_pool.h"
#include "io/checkpoint_kinds.h"
#include "io/onnx.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

class OnnxCheckpoint final : public Checkpoint {
 public:
  OnnxCheckpoint(const std::filesystem::path& file, const std::filesystem::path& folder)
      : path_(file), folder_(folder), file_(file) {
    for (const auto& [name, weight] : file_.weights()) {
      weights_.push_back({name, weight.shape(), weight.view.dtype, std::nullopt, weight.view.bytes.size(),
                          std::string(dtype_name(weight.view.dtype))});
    }
  }

  [[nodiscard]] const Json& config() const override { return folder_.config; }
  [[nodiscard]] const Json& generation_config() const override { return folder_.generation_config; }
  [[nodiscard]] std::string where() const override { return path_.string(); }
  [[nodiscard]] std::string where(const std::string& name) const override {
    const auto found = file_.weights().find(name);
    return found == file_.weights().end() ? path_.string() : found->second.where;
  }
  [[nodiscard]] const std::vector<WeightInfo>& weights() const override { return weights_; }
  void release() const override { file_.release(); }
  [[nodiscard]] std::string kind() const override { return "ONNX"; }
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> tokenizer_files() const override {
    return folder_.tokenizer_files();
  }

 private:
  [[nodiscard]] Weight read(const std::string& name, ThreadPool& pool) const override {
    const auto found = file_.weights().find(name);
    if (found == file_.weights().end())
      throw Error(ErrorCode::kNotFound, fmt::format("{}: tensor {} is missing", path_.string(), name));
    const OnnxWeight& weight = found->second;
    if (!weight.transposed) return {weight.view, nullptr};
    const Shape shape = weight.shape();
    const std::size_t size = dtype_bytes(weight.view.dtype);
    const auto bytes = std::make_shared<std::vector<std::byte>>(weight.view.bytes.size());
    const auto rows = static_cast<std::size_t>(shape[0]);
    const auto cols = static_cast<std::size_t>(shape[1]);
    pool.parallel_for(shape[0], 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::size_t col = 0; col < cols; ++col) {
        for (auto row = static_cast<std::size_t>(begin); row < static_cast<std::size_t>(end); ++row) {
          std::memcpy(bytes->data() + (row * cols + col) * size, weight.view.bytes.data() + (col * rows + row) * size,
                      size);
        }
      }
    });
    return {DenseView{weight.view.dtype, shape, *bytes}, bytes};
  }

  std::filesystem::path path_;
  HfFolder folder_;
  OnnxFile file_;
  std::vector<WeightInfo> weights_;
};

}  // namespace

std::unique_ptr<Checkpoint> open_onnx_checkpoint(const std::filesystem::path& file) {
  // Exporters put the model beside its configuration, or in a folder "onnx" there.
  std::filesystem::path folder = file.parent_path();
  if (!std::filesystem::exists(folder / "config.json") && std::filesystem::exists(folder / ".." / "config.json"))
    folder = folder / "..";
  return std::make_unique<OnnxCheckpoint>(file, folder.empty() ? "." : folder);
}

}  // namespace metal_marlin
