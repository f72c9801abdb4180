// Weights of an ONNX file (https://onnx.ai/onnx/repo-docs/IR.html), by their Hugging Face names.
//
// Exporters keep the names of most parameters. Those of matrices get lost where the exporter turns them round for
// MatMul: then the name comes from the node that multiplies by them, which tells its module's path, in its name as
// "/model/layers.0/self_attn/q_proj/MatMul" or in its metadata.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/dtype.h"
#include "io/mapped_file.h"

namespace metal_marlin {

struct OnnxWeight {
  DenseView view;           // as stored
  bool transposed = false;  // [in, out] of a linear layer, to be turned round
  std::string where;        // the file of its bytes
  std::string initializer;  // its name in the file

  [[nodiscard]] Shape shape() const { return transposed ? Shape{view.shape[1], view.shape[0]} : view.shape; }
};

class OnnxFile {
 public:
  // \throws Error naming file and tensor or node: what is no ONNX file, contradicts itself, or holds
  // quantized weights.
  explicit OnnxFile(const std::filesystem::path& path);
  // bytes: of such a file; external data lies in `folder`.
  OnnxFile(std::span<const std::byte> bytes, const std::filesystem::path& folder, const std::string& where);
  ~OnnxFile();
  OnnxFile(const OnnxFile&) = delete;
  OnnxFile& operator=(const OnnxFile&) = delete;

  [[nodiscard]] const std::map<std::string, OnnxWeight>& weights() const { return weights_; }
  // As MappedFile's.
  void release() const;

 private:
  class Reader;
  void read(std::span<const std::byte> bytes, const std::filesystem::path& folder, const std::string& where);

  std::map<std::string, OnnxWeight> weights_;
  std::map<std::filesystem::path, std::unique_ptr<MappedFile>> files_;  // of external data
  std::vector<std::vector<std::byte>> owned_;                           // bytes that lay in the file itself
};

}  // namespace metal_marlin
