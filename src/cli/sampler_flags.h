// The options of sampling, as flags and as settings that are changed while a program runs.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <utility>
#include <vector>

#include "metal_marlin/sampler.h"

namespace metal_marlin::cli {

// --temperature, --top-k and the rest.
void add_sampler_flags(CLI::App& command, SamplerOptions& options);

// Sets one by its flag's name with "_" for "-": "top_k". \returns false when there is none of this name.
// \throws Error (kInvalidArgument) naming it, when the value is none for it.
bool set_sampler(SamplerOptions& options, const std::string& name, const std::string& value);

// Names and values.
std::vector<std::pair<std::string, std::string>> sampler_settings(const SamplerOptions& options);

}  // namespace metal_marlin::cli
