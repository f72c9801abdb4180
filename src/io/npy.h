// NumPy's .npy files: one little-endian array in C order
// (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "io/dtype.h"

namespace metal_marlin {

struct NpyArray {
  std::string type;  // as NumPy writes it, such as "<f4"
  std::size_t element_bytes = 0;
  Shape shape;
  std::vector<std::byte> bytes;
};

// `where` names the file in errors. \throws Error (kCorruptFile, kUnsupported)
NpyArray parse_npy(std::span<const std::byte> bytes, const std::string& where);
NpyArray read_npy(const std::filesystem::path& path);

// Written to a temporary name and renamed. \throws Error (kIo)
void write_npy(const std::filesystem::path& path, const std::string& type, const Shape& shape,
               std::span<const std::byte> bytes);

}  // namespace metal_marlin
