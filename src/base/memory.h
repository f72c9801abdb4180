// How much memory there is.
#pragma once

#include <cstddef>
#include <string>

namespace metal_marlin {

// Bytes that can be allocated without swapping: the kernel's estimate, or less
// where a control group limits this process.
std::size_t available_memory();

// \throws Error (kOutOfMemory) saying what needs how much of what.
void require_memory(std::size_t needed, const std::string& what);

// "1.5 GiB"
std::string byte_text(std::size_t bytes);

}  // namespace metal_marlin
