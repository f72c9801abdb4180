// Where commands that talk to a model find it: a path, or a hub's ORG/NAME, which is fetched and, where a format is
// asked for, quantized, once, into the cache of models.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>
#include <string>

#include "io/file_lock.h"

namespace metal_marlin::cli {

struct ModelSource {
  std::filesystem::path path;  // to load it from
  std::string name;            // ORG/NAME, or the path's last part
  // Keeps it in the cache.
  std::optional<FileLock> lock;
};

// What a model of a hub becomes on its way into the cache.
struct SourceFlags {
  std::string format;
  std::string recipe;
  void add(CLI::App& command);
  [[nodiscard]] bool given() const { return !format.empty() || !recipe.empty(); }
};

// What MODEL's help says.
inline constexpr const char* kModelHelp =
    "Hugging Face folder, quantized folder, GGUF or ONNX file, or ORG/NAME of a hub, which is pulled once";

// Shows progress on the standard error. Asks no hub for what the cache has.
// \throws Error (kNotFound) when it is neither; as pull() and quantize() do.
ModelSource find_model(const std::string& model, const SourceFlags& flags, int threads);

}  // namespace metal_marlin::cli
