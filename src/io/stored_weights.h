// The quantized weights of a folder of safetensors, whatever program wrote it: each knows which entries of the
// files it is made of and how it becomes one of our formats. One function a kind of folder makes a list of them.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "io/json.h"
#include "io/safetensors.h"

namespace metal_marlin {

struct StoredWeight {
  WeightInfo info;
  std::vector<std::string> parts;  // entries of the files; what no weight is made of is dense
  std::function<Weight(ThreadPool&)> load;
};

// MLX: `quantization` of the configuration, and X.weight, X.scales, X.biases of modules.
std::vector<StoredWeight> mlx_weights(const SafetensorsFolder& folder, const JsonObject& quantization);
// FP8 by blocks (DeepSeek, Qwen): X.weight in E4M3 and X.weight_scale_inv, a scale a block.
std::vector<StoredWeight> fp8_weights(const SafetensorsFolder& folder, const JsonObject& quantization);
// bitsandbytes: NF4, FP4 and LLM.int8().
std::vector<StoredWeight> bitsandbytes_weights(const SafetensorsFolder& folder, const JsonObject& quantization);

// MXFP4, as gpt-oss has its experts: X_blocks and X_scales.
std::vector<StoredWeight> mxfp4_weights(const SafetensorsFolder& folder, const JsonObject& quantization);
// gpt-oss' experts that are not quantized, and the biases of all: not as other models' are, in spite of the same names.
std::vector<StoredWeight> gpt_oss_experts(const SafetensorsFolder& folder);

// A packed matrix and the bytes that had to be rearranged for it.
struct LoadedPack {
  PackedView view;
  std::shared_ptr<const void> owner;
};

// The spec with a group that our kernels have: a group of several of those becomes that many with the same
// scale. \throws Error (kUnsupported) naming the module when none divides it.
FormatSpec usable_spec(const FormatSpec& spec, std::int64_t cols, const std::string& module);
// The same of a matrix.
LoadedPack with_usable_groups(LoadedPack pack, const std::string& module);

// A weight that stays packed; the spec's group is made usable.
StoredWeight packed_weight(const std::string& module, const FormatSpec& spec, std::int64_t rows, std::int64_t cols,
                           std::vector<std::string> parts, std::function<LoadedPack()> load);
// A weight that none of our formats says: it becomes f16. read: makes row `row`; stored_as: for people.
StoredWeight decoded_weight(const std::string& module, std::int64_t rows, std::int64_t cols, std::string stored_as,
                            std::vector<std::string> parts, std::function<RowReader()> reader);

// Modules that `key` lists as not quantized are dense, as Transformers has it: a name is a pattern of a module's
// beginning or its end. \throws Error (kCorruptFile) naming one whose tensors are packed.
void refuse_left_out(const JsonObject& quantization, const char* key, const std::vector<StoredWeight>& weights);
// Where `key` lists the modules that are quantized, by the ends of their names, in lists of lists or alone, packed ones
// are among them; the head is not in such lists. \throws Error (kCorruptFile) naming one that is not.
void refuse_unlisted(const JsonObject& quantization, const char* key, const std::vector<StoredWeight>& weights);
[[noreturn]] void packed_left_out(const JsonObject& quantization, const char* key, const std::string& module);

// A part of a module. \throws Error (kNotFound) naming file and tensor.
const DenseView& part(const SafetensorsFolder& folder, const std::string& name);
// \throws Error (kCorruptFile) naming file and tensor, what was found and what was expected.
[[noreturn]] void bad_part(const SafetensorsFolder& folder, const std::string& name, const DenseView& view,
                           const std::string& expected);
// A part that must be of a type and a shape.
const DenseView& typed_part(const SafetensorsFolder& folder, const std::string& name, DType dtype, const Shape& shape);
// The scale type that stands for a type of elements, if one does.
std::optional<ScaleType> scale_type_of(DType dtype);

// "model.layers.0.mlp.up_proj" of "model.layers.0.mlp.up_proj.weight".
std::string module_of(const std::string& entry);

}  // namespace metal_marlin
