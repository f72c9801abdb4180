// Reading a text, whatever kind of file gives it.
#pragma once

#include <filesystem>
#include <string>

namespace metal_marlin {

// All of a file, a pipe or, for "-", the standard input, in one go from begin to end: what a pipe gave is gone.
// \throws Error (kNotFound, kIo) naming it, for a folder too; (kInvalidArgument) when it is longer than any text to
// work on, as /dev/zero is; (kCancelled) when a signal interrupts the wait for it.
std::string read_text_file(const std::filesystem::path& path);

}  // namespace metal_marlin
