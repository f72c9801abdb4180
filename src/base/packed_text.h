// Texts that tools/msl/pack.py compressed into the program.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace metal_marlin {

// One of them, by its place. \throws Error (kInternal) when there is no such place, or it does not unpack.
std::string unpack_text(std::span<const std::byte> packed, std::size_t index);

}  // namespace metal_marlin
