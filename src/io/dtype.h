// Element types of stored dense tensors, by their safetensors names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace metal_marlin {

enum class DType : std::uint8_t {
  kF64,
  kF32,
  kF16,
  kBf16,
  kF8E4M3,
  kF8E5M2,
  kF8E8M0,
  kI64,
  kU64,
  kI32,
  kU32,
  kI16,
  kU16,
  kI8,
  kU8,
  kBool,
  // That nothing here computes with, but files may hold.
  kC64,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz
};

std::string_view dtype_name(DType dtype);
std::optional<DType> dtype_from_name(std::string_view name);
// Of a type whose elements take whole bytes.
std::size_t dtype_bytes(DType dtype);
// What so many elements take; nothing where that is no whole number of bytes, or too many.
std::optional<std::uint64_t> stored_bytes(DType dtype, std::int64_t count);
bool is_float(DType dtype);

using Shape = std::vector<std::int64_t>;

// Elements of a shape, or nothing when a dimension is negative or the product
// exceeds 2^62.
std::optional<std::int64_t> element_count(const Shape& shape);
std::string shape_text(const Shape& shape);

// A dense tensor whose bytes lie elsewhere.
struct DenseView {
  DType dtype = DType::kF32;
  Shape shape;
  std::span<const std::byte> bytes;
};

// Converts `n` floating-point elements from element `begin` on to f32.
void convert_to_f32(DType dtype, std::span<const std::byte> bytes, std::size_t begin, std::size_t n, float* out);

}  // namespace metal_marlin
