// What a model does with a text, for those who decide on its formats.
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

namespace metal_marlin {

struct CalibrationOptions {
  std::int64_t tokens = 16384;  // of the text, from its beginning
  int threads = 0;
  std::function<bool(std::int64_t done, std::int64_t total)> progress;  // tokens; false: stop
};

// Tokens that each expert got, [layer][expert]; empty for layers without experts.
using ExpertCounts = std::vector<std::vector<std::int64_t>>;

// Runs the model at `source` over the text file. \throws Error naming what is missing: a
// tokenizer, experts, text; (kCancelled).
ExpertCounts count_experts(const std::filesystem::path& source, const std::filesystem::path& text,
                           const CalibrationOptions& options);

}  // namespace metal_marlin
