// GGUF files of machines whose highest byte comes first.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace metal_marlin {

// Whether a file's version only makes sense with its bytes turned round.
bool is_big_endian_gguf(std::span<const std::byte> bytes);
// The same file with the lowest byte first. \throws Error (kCorruptFile) where it ends too early; (kUnsupported)
// naming a tensor of a type whose order of bytes is not settled.
std::vector<std::byte> little_endian_gguf(std::span<const std::byte> bytes, const std::string& where);

}  // namespace metal_marlin
