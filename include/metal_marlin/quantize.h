/// \file
/// Quantizing a model into a folder that Hugging Face tools recognise.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "metal_marlin/evaluate.h"
#include "metal_marlin/format.h"
#include "metal_marlin/model.h"

namespace metal_marlin {

/// How codes are chosen.
enum class QuantizeMethod : std::uint8_t {
  kRtn,          ///< Round to nearest, scales by squared error.
  kRtnWeighted,  ///< The same, errors weighted by how large the weights' inputs are on a text.
  kGptq,         ///< GPTQ (arXiv 2210.17323) on a text, scales as kRtnWeighted.
  kMrGptq,       ///< GPTQ of weights and inputs that are rotated in blocks (arXiv 2509.23202).
};
/// "rtn", "rtn-weighted", "gptq", "mr-gptq". \throws Error (kInvalidArgument) naming them.
QuantizeMethod parse_method(std::string_view name);
std::string_view method_name(QuantizeMethod method);

struct QuantizeProgress {
  std::string tensor;  ///< being worked on
  std::int64_t done_weights = 0;
  std::int64_t total_weights = 0;
  double output_error = 0;   ///< of the tensor before, as in QuantizedTensor
  bool calibrating = false;  ///< the counts are of layers that the calibration text has passed
};

struct QuantizeOptions {
  /// A built-in recipe's name or a recipe file (docs/recipes.md), which then says
  /// each weight's format; empty: the next two fields do.
  std::string recipe;
  QuantizeMethod method = QuantizeMethod::kRtn;  ///< of rules that name none too
  /// kMrGptq's blocks: 16, 32, 64 or 128; 0: for each weight the largest that fits. A block that does
  /// not divide a weight's width is an error.
  int rotation = 0;
  /// A text: for methods that need one, and on which the use of experts is counted, for recipes
  /// with cold experts; without it every routed expert is cold.
  std::filesystem::path calibration;
  std::int64_t calibration_tokens = 16384;
  FormatSpec spec;  ///< of the linear layers
  /// Bits a weight of the linear layers together, scales and zeros included: each gets the format that
  /// keeps the model's divergence on the text least, `spec` is not used; 0: no target.
  double target_bpw = 0;
  /// Of what may be chosen; empty: integers of 2 to 8 bits in several groups.
  std::vector<FormatSpec> candidates;
  /// What the candidates cost each weight, read from this file if it is there, else measured and
  /// written to it; empty: measured, and written into the destination alone.
  std::filesystem::path curves;
  /// Of embeddings and the output head; nothing keeps them as they are.
  std::optional<FormatSpec> embedding = default_spec(Format::kInt8);
  /// A LoRA adapter (docs/lora.md) that is added to the weights first; its name is of no use. What it changes and is
  /// not quantized becomes f32.
  std::optional<AdapterOptions> merge;
  /// Perl-compatible regular expressions, searched for in weight names. Where
  /// include is not empty, linear layers that match none of it stay as they
  /// are; whatever matches exclude stays as it is.
  std::vector<std::string> include;
  std::vector<std::string> exclude;
  int threads = 0;  ///< 0: one per usable core. The result does not depend on it.
  /// What runs the model on the calibration text, as LoadOptions::backend. Results differ by rounding.
  std::string backend = "cpu";
  std::size_t shard_bytes = std::size_t{5} << 30;
  bool overwrite = false;  ///< Replace an existing destination.
  /// Bytes of memory that must do; 0: no limit. What is needed is estimated before anything is done.
  std::size_t memory = 0;
  std::function<bool(const QuantizeProgress&)> progress;  ///< false: stop
  std::function<void(const std::string&)> notice;
};

struct QuantizedTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  std::string source;  ///< "BF16", "Q4_1" ...
  std::string format;  ///< "fp4" ..., or the element type of a tensor that was kept
  std::int64_t weights = 0;
  std::size_t source_bytes = 0;
  std::size_t bytes = 0;
  /// Root of the squared error over the squared weights; 0 for kept tensors.
  double relative_error = 0;
  QuantizeMethod method = QuantizeMethod::kRtn;
  /// Why that is not the method that was asked for; empty: it is.
  std::string fallback;
  int rotation = 0;              ///< Block of rotated inputs; 0: none.
  bool rotation_folded = false;  ///< Into the weights before it: nothing to do at run time.
  /// Root of the squared error of the layer's outputs on the text over the outputs squared, by this
  /// method and by kRtn; 0 where no text told.
  double output_error = 0;
  double output_error_rtn = 0;
  double seconds = 0;
};

/// What an allocation of so many bits a weight is expected to cost, in nats of divergence.
struct AllocationPoint {
  double bits_per_weight = 0;
  double loss = 0;
};

struct QuantizeReport {
  std::vector<QuantizedTensor> tensors;
  std::string quant_method;
  QuantizeMethod method = QuantizeMethod::kRtn;
  /// With calibration: tokens that each expert got, [layer][expert].
  std::vector<std::vector<std::int64_t>> expert_counts;
  /// With a target: what was chosen, and what other targets would give.
  AllocationPoint allocation;
  std::vector<AllocationPoint> allocation_curve;
  double seconds = 0;
  /// Of the result, beside the source; for whoever measured it to fill in (write_report).
  std::optional<Evaluation> evaluation;
};

/// Writes the report into a quantized folder, as quantization_report.json and quantization_report.html.
/// \throws Error (kIo).
void write_report(const std::filesystem::path& folder, const QuantizeReport& report);

/// Reads `source` (folder, GGUF or ONNX file) a tensor at a time and writes the folder
/// `destination`, which appears only when it is complete; the report lies in it, as
/// quantization_report.json and quantization_report.html. A run that was killed or cancelled leaves
/// `destination`.partial-XXXXXX, which the next one of the same source and options goes on with; the
/// result is that of one run, bit by bit.
/// \throws Error naming file, tensor or option; (kCancelled).
QuantizeReport quantize(const std::filesystem::path& source, const std::filesystem::path& destination,
                        const QuantizeOptions& options);

/// A model that a built-in recipe is for, and what it becomes.
struct RecipeReport {
  std::string model;
  std::string recipe;
  std::int64_t weights = 0;
  std::size_t source_bytes = 0;    ///< in bf16
  std::size_t bytes = 0;           ///< with no cold experts
  std::size_t bytes_all_cold = 0;  ///< with every routed expert cold, as without calibration
};

/// Of every built-in recipe, its models in order.
std::vector<RecipeReport> recipe_reports();

}  // namespace metal_marlin
