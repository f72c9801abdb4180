// One view of a model on disk, whatever container holds it: a configuration, a
// tokenizer, and weights by their Hugging Face names.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "formats/packed_matrix.h"
#include "io/dtype.h"
#include "io/json.h"

namespace metal_marlin {

class ThreadPool;

struct WeightInfo {
  std::string name;
  Shape shape;
  DType dtype = DType::kF32;         // of a dense weight
  std::optional<FormatSpec> packed;  // of a quantized one
  std::size_t bytes = 0;             // in the file
  std::string stored_as;             // for people: "BF16", "fp4", "Q4_1"
};

// A weight and whatever keeps its bytes alive.
struct Weight {
  std::variant<DenseView, PackedView> view;
  std::shared_ptr<const void> owner;

  [[nodiscard]] bool packed() const { return std::holds_alternative<PackedView>(view); }
  // Row `row` of a matrix (or a whole vector as row 0) in f32.
  void decode_row(std::int64_t row, std::int64_t cols, float* out) const;
  // Rows [first, first + count) of a matrix, or elements of a vector, which share the bytes.
  [[nodiscard]] Weight rows(std::int64_t first, std::int64_t count) const;
};

struct CheckpointOptions {
  // K-quants and IQ4_XS of GGUF become f16 instead of int8 group 32.
  bool gguf_to_f16 = false;
  // Called with things the user should know, such as a lossy conversion.
  std::function<void(const std::string&)> notice;
};

class Checkpoint {
 public:
  virtual ~Checkpoint() = default;
  Checkpoint() = default;
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;

  // config.json; generation_config.json or null.
  [[nodiscard]] virtual const Json& config() const = 0;
  [[nodiscard]] virtual const Json& generation_config() const = 0;
  // Where the model lies, for errors.
  [[nodiscard]] virtual std::string where() const = 0;
  // The file that a weight comes from.
  [[nodiscard]] virtual std::string where(const std::string& name) const = 0;
  // What the file calls a weight, or would if it had it.
  [[nodiscard]] virtual std::string name_in_file(const std::string& name) const { return name; }
  // In order of name.
  [[nodiscard]] virtual const std::vector<WeightInfo>& weights() const = 0;
  // \throws Error (kNotFound) naming the weight; (kCorruptFile) when it holds what is not finite.
  [[nodiscard]] Weight load(const std::string& name, ThreadPool& pool) const;
  // Pages of its files need not stay in memory.
  virtual void release() const {}
  // Text of the tokenizer files to carry over, by file name.
  [[nodiscard]] virtual std::vector<std::pair<std::string, std::string>> tokenizer_files() const = 0;
  // "dense", "metal-marlin", "compressed-tensors", "GPTQ", "AWQ", "FP8", "bitsandbytes", "MXFP4", "MLX", "ONNX" or
  // "GGUF".
  [[nodiscard]] virtual std::string kind() const = 0;

  [[nodiscard]] const WeightInfo* find(const std::string& name) const;
  // A weight that the model needs. \throws Error naming the weight when it is
  // missing, of another shape, or not of floating-point values.
  const WeightInfo& require(const std::string& name, const Shape& shape) const;

 private:
  [[noreturn]] void fail_missing(const std::string& name) const;
  // A weight that is there.
  [[nodiscard]] virtual Weight read(const std::string& name, ThreadPool& pool) const = 0;
};

// Opens a Hugging Face folder, a quantized folder, a GGUF file, or an ONNX file beside its configuration
// (or the folder of both).
// \throws Error naming what is missing or wrong.
std::unique_ptr<Checkpoint> open_checkpoint(const std::filesystem::path& path, const CheckpointOptions& options = {});

}  // namespace metal_marlin
