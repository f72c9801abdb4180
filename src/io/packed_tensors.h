// How a packed matrix lies in the safetensors files that we write, and the quantization_config
// that says so (docs/file-format.md). Two schemes share the part names:
// "metal-marlin", ours, for every format, and "compressed-tensors", which other
// programs load, for the formats that it has (compressed_tensors.h reads all of that one).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "formats/packed_matrix.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/stored_weights.h"

namespace metal_marlin {

enum class PackScheme : std::uint8_t { kMetalMarlin, kCompressedTensors };

// A linear layer that is quantized.
struct PackedModule {
  FormatSpec spec;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  int folded_rotation = 0;  // block of inputs that other weights rotate; told, but nothing depends on it
};

// Whether the compressed-tensors schema holds these modules (by name, without
// ".weight"): one format for all of them, int4 or int8 in groups or rows, FP8
// E4M3 by rows, or NVFP4, whole groups; and none may be the embedding or the head.
bool fits_compressed_tensors(const std::map<std::string, PackedModule>& modules);

// The config.json entry. ignored: linear layers that stay dense.
Json quantization_config(PackScheme scheme, const std::map<std::string, PackedModule>& modules,
                         const std::vector<std::string>& ignored);

// The entries of one module, and their bytes in the same order.
std::vector<TensorPlan> packed_tensor_plans(PackScheme scheme, const std::string& module, const PackedModule& packed);
void write_packed_tensors(PackScheme scheme, const PackedMatrix& matrix, SafetensorsWriter& writer);

// The weights of a folder that `quantize` wrote. \throws Error naming field, file or tensor.
std::vector<StoredWeight> marlin_weights(const SafetensorsFolder& folder, const JsonObject& quantization);
// Reads the parts of a module that we wrote. \throws Error naming file and tensor.
LoadedPack load_packed_tensors(const SafetensorsFolder& folder, PackScheme scheme, const std::string& module,
                               const PackedModule& described);

}  // namespace metal_marlin
