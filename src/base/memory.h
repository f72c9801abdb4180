// How much memory there is.
#pragma once

#include <cstddef>
#include <string>

namespace metal_marlin {

// Bytes that can be allocated without swapping: the kernel's estimate, or less
// where a control group or the process' own limit of virtual memory (RLIMIT_AS) is less.
std::size_t available_memory();

// \throws Error (kOutOfMemory) saying what needs how much of what is available.
void require_memory(std::size_t needed, std::size_t available, const std::string& what);

// "1.5 GiB"
std::string byte_text(std::size_t bytes);

}  // namespace metal_marlin
