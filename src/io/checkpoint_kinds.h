// The containers that open_checkpoint chooses from.
#pragma once

#include <nlohmann/json.hpp>

#include "io/checkpoint.h"

namespace metal_marlin {

// The texts of a Hugging Face folder.
struct HfFolder {
  // \throws Error naming the file: there is no config.json, or one of them is no JSON.
  explicit HfFolder(const std::filesystem::path& path);
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> tokenizer_files() const;
  // The field `dynamic` of the quantization's configuration: first the rules that leave modules out, as GPTQModel has
  // it, each kind in the order of the file. \throws Error naming the field.
  [[nodiscard]] std::vector<std::pair<std::string, Json>> module_rules() const;

  std::filesystem::path path;
  Json config;
  Json generation_config;  // or null
  Json quantize_config;    // of quantize_config.json (AutoGPTQ) or quant_config.json (AutoAWQ), or null
  std::filesystem::path quantize_config_file;
};

std::unique_ptr<Checkpoint> open_hf_checkpoint(const std::filesystem::path& folder, const CheckpointOptions& options);
std::unique_ptr<Checkpoint> open_onnx_checkpoint(const std::filesystem::path& file);
std::unique_ptr<Checkpoint> open_gguf_checkpoint(const std::filesystem::path& file, const CheckpointOptions& options);

}  // namespace metal_marlin
