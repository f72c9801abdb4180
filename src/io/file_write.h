// Writing to a descriptor to the end, and errors of files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace metal_marlin {

// \throws Error (kIo): the path, "cannot" with the action, and what errno says.
[[noreturn]] void fail_file(const std::filesystem::path& path, const char* action);

// All bytes, from `offset` of the file on, whatever interrupts. \throws Error (kIo) naming the path.
void write_fully(int descriptor, std::span<const std::byte> bytes, std::int64_t offset,
                 const std::filesystem::path& path);

}  // namespace metal_marlin
