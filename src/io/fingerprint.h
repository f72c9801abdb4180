// What tells a model's files from others.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "io/checkpoint.h"

namespace metal_marlin {

// Of the configuration, of how these weights are stored, and of bytes all over the files that they come from: about a
// thousand places of each, so that it takes no time, and a weight that is another is all but certainly seen.
std::uint64_t fingerprint_of(const Checkpoint& checkpoint, std::span<const std::string> weights);

}  // namespace metal_marlin
