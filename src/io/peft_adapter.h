// A LoRA adapter as PEFT saves it: a folder of adapter_config.json and adapter_model.safetensors.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "io/safetensors.h"

namespace metal_marlin {

// What it has of one module.
struct PeftModule {
  const DenseView* a = nullptr;  // [rank, in]; of an embedding [rank, vocab]
  const DenseView* b = nullptr;  // [out, rank]
  std::int64_t rank = 0;
  double scale = 1;  // of the product of both
};

class PeftAdapter {
 public:
  // \throws Error naming file and field, or tensor: what is missing or wrong; (kUnsupported) what is asked for and not
  // done.
  explicit PeftAdapter(const std::filesystem::path& folder);

  // By the names of modules in the model.
  [[nodiscard]] const std::map<std::string, PeftModule>& linears() const { return linears_; }
  [[nodiscard]] const std::map<std::string, PeftModule>& embeddings() const { return embeddings_; }
  // Copies of the model's own weights that are saved beside them, by the weights' names.
  [[nodiscard]] const std::map<std::string, const DenseView*>& base_weights() const { return base_weights_; }
  // The file of tensors, for errors and to know it again.
  [[nodiscard]] const std::filesystem::path& file() const { return file_->path(); }
  [[nodiscard]] const std::filesystem::path& config() const { return config_; }

 private:
  std::filesystem::path config_;
  std::unique_ptr<SafetensorsFile> file_;
  std::map<std::string, PeftModule> linears_;
  std::map<std::string, PeftModule> embeddings_;
  std::map<std::string, const DenseView*> base_weights_;
};

// A tensor's elements, row by row. \throws Error (kCorruptFile) naming `where` when one is not a finite number.
std::vector<float> adapter_elements(const DenseView& view, const std::string& where);

}  // namespace metal_marlin
