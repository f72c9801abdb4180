// How a packed matrix lies in a safetensors file, and the quantization_config
// that says so (docs/file-format.md). Two schemes share the part names:
// "metal-marlin", ours, for every format, and "compressed-tensors", which other
// programs load, for the formats that it has. Others are read only (column_packed.h).
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "formats/packed_matrix.h"
#include "io/json.h"
#include "io/safetensors.h"

namespace metal_marlin {

class ThreadPool;

enum class PackScheme : std::uint8_t {
  kMetalMarlin,
  kCompressedTensors,
  kGptq,    // zeros less one
  kGptqV2,  // zeros as they are
  kAwq,
};
// Whether a scheme is one of column_packed.h.
inline bool is_column_packed(PackScheme scheme) {
  return scheme == PackScheme::kGptq || scheme == PackScheme::kGptqV2 || scheme == PackScheme::kAwq;
}

// A linear layer that is quantized.
struct PackedModule {
  FormatSpec spec;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  int folded_rotation = 0;  // block of inputs that other weights rotate; told, but nothing depends on it
};

// Whether the compressed-tensors schema holds these modules (by name, without
// ".weight"): one format for all of them, int4 or int8 in groups or rows, FP8
// E4M3 by rows, or NVFP4, whole groups, and only linear layers inside blocks.
bool fits_compressed_tensors(const std::map<std::string, PackedModule>& modules);

// The config.json entry. ignored: linear layers that stay dense.
Json quantization_config(PackScheme scheme, const std::map<std::string, PackedModule>& modules,
                         const std::vector<std::string>& ignored);

// The entries of one module, and their bytes in the same order.
std::vector<TensorPlan> packed_tensor_plans(PackScheme scheme, const std::string& module, const PackedModule& packed);
void write_packed_tensors(PackScheme scheme, const PackedMatrix& matrix, SafetensorsWriter& writer);

// What a quantization_config says, for reading.
class QuantizationConfig {
 public:
  // json: the quantization_config field. \throws Error (kUnsupported) naming a
  // method or scheme that we do not read.
  QuantizationConfig(const Json& json, const std::string& where);
  [[nodiscard]] PackScheme scheme() const { return scheme_; }
  // A module's format and shape (zeros where only the tensors tell it); nothing
  // when it is dense.
  [[nodiscard]] std::optional<PackedModule> find(const std::string& module) const;

 private:
  struct Group {
    std::vector<std::string> targets;
    FormatSpec spec;
  };
  void parse_marlin(const JsonObject& json);
  void parse_compressed(const JsonObject& json);
  void parse_column_packed(const JsonObject& json, bool awq);

  PackScheme scheme_ = PackScheme::kMetalMarlin;
  std::map<std::string, PackedModule> modules_;
  std::vector<Group> groups_;
  std::vector<std::string> ignored_;
};

// A packed matrix and the bytes that had to be rearranged for it.
struct LoadedPack {
  PackedView view;
  std::shared_ptr<const void> owner;
};
// Reads a module's parts. \throws Error naming file and tensor.
LoadedPack load_packed_tensors(const SafetensorsFolder& folder, PackScheme scheme, const std::string& module,
                               const PackedModule& described);

// The group of each input of a packed module where groups are not neighbours ("activation order"), from
// its g_idx; empty: they are. \throws Error naming the tensor when it is no list of groups.
std::vector<std::int32_t> group_order(const SafetensorsFolder& folder, PackScheme scheme, const std::string& module,
                                      const PackedModule& packed);
// A matrix whose input k is in group groups[k], in f16, as [rows, cols].
std::vector<std::byte> decode_ordered(const PackedView& packed, std::span<const std::int32_t> groups, ThreadPool& pool);

// A part of a module. \throws Error (kNotFound) naming file and tensor.
const DenseView& part(const SafetensorsFolder& folder, const std::string& name);
// \throws Error (kCorruptFile) naming file and tensor, what was found and what was expected.
[[noreturn]] void bad_part(const SafetensorsFolder& folder, const std::string& name, const DenseView& view,
                           const std::string& expected);

// The entry that holds the codes of a module under a scheme.
std::string codes_entry(PackScheme scheme, const std::string& module, const FormatSpec& spec);
// Whether an entry is a part of a packed module, other than its codes.
bool is_side_entry(PackScheme scheme, const std::string& name);

}  // namespace metal_marlin
