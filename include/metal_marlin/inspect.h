/// \file
/// Looking at a model on disk, and at this build.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "metal_marlin/format.h"

namespace metal_marlin {

/// This library's version, "0.1.0".
const char* version();

struct InspectedTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  std::string stored_as;  ///< "BF16", "Q4_1", "fp4" ...
  std::string group;      ///< of quantized tensors: "32", "row" ..., else empty
  std::string scale_type;
  std::size_t bytes = 0;
  double bits_per_weight = 0;
};

/// What running a model takes on the cpu backend.
struct MemoryNeed {
  std::size_t weights = 0;
  std::size_t workspace = 0;    ///< of a session with the default options, in one thread
  std::size_t cache_token = 0;  ///< a position of a sequence, in the default cache
};

struct Inspection {
  std::string kind;  ///< as ModelInfo::kind
  std::string architecture;
  std::string config_json;
  std::vector<InspectedTensor> tensors;
  std::int64_t weights = 0;
  std::size_t bytes = 0;
  std::optional<MemoryNeed> memory;
  std::string not_run;  ///< why there is no MemoryNeed: what this version cannot run, in words
};

/// Reads headers only. \throws Error naming what is wrong.
Inspection inspect(const std::filesystem::path& path);

struct Status {
  std::string version;
  std::vector<std::string> backends;
  std::string metallib;  ///< whose kernels, and how many, msl-host runs in place of this build's; else empty
  std::vector<std::string> instruction_sets;  ///< of the cpu backend here, best first
  int threads = 0;
  std::vector<std::string> formats;
  std::vector<std::string> architectures;
};
Status status();

}  // namespace metal_marlin
