// The GGUF container, versions 2 and 3 (ggml's docs/gguf.md): metadata
// key-values, tensor descriptions, aligned tensor data. Values and tensors are
// views into the file.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "io/dtype.h"
#include "io/mapped_file.h"

namespace metal_marlin {

enum class GgufType : std::uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2K = 10,
  kQ3K = 11,
  kQ4K = 12,
  kQ5K = 13,
  kQ6K = 14,
  kIq4Nl = 20,
  kIq4Xs = 23,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kBf16 = 30,
  kMxfp4 = 39
};

inline constexpr std::uint32_t kGgufBool = 7;  // a metadata value's type
// Metadata value types that have no fixed size.
inline constexpr std::uint32_t kGgufString = 8;
inline constexpr std::uint32_t kGgufArray = 9;
// Bytes of a metadata value of a type; 0: it has no fixed size, or there is no such type.
std::size_t gguf_value_bytes(std::uint32_t type);

struct GgufTypeInfo {
  GgufType type;
  std::string_view name;
  int block;  // elements in a block
  int block_bytes;
};
// Null for types that we do not read.
const GgufTypeInfo* find_gguf_type(std::uint32_t type);
const GgufTypeInfo& gguf_type_info(GgufType type);
// The name of a type, whether we read it or not: "IQ2_XXS (16)".
std::string gguf_type_name(std::uint32_t type);
// The plain element type, for those that have no blocks.
std::optional<DType> gguf_dense_type(GgufType type);

// A homogeneous array, left as it lies in the file.
struct GgufArray {
  std::uint32_t type = 0;
  std::uint64_t count = 0;
  std::span<const std::byte> bytes;
};

using GgufValue = std::variant<std::int64_t, std::uint64_t, double, bool, std::string_view, GgufArray>;

struct GgufTensor {
  GgufType type = GgufType::kF32;
  Shape shape;  // outermost dimension first, unlike in the file
  std::span<const std::byte> bytes;
};

struct Gguf {
  std::string where;  // file name for errors
  std::map<std::string, GgufValue, std::less<>> values;
  std::map<std::string, GgufTensor, std::less<>> tensors;

  // Nothing when the key is absent; \throws Error (kCorruptFile) when it has another type.
  [[nodiscard]] std::optional<std::int64_t> integer(std::string_view key) const;
  [[nodiscard]] std::optional<double> number(std::string_view key) const;
  [[nodiscard]] std::optional<bool> boolean(std::string_view key) const;
  [[nodiscard]] std::optional<std::string_view> string(std::string_view key) const;
  // Empty when absent.
  [[nodiscard]] std::vector<std::string_view> strings(std::string_view key) const;
  [[nodiscard]] std::vector<std::int64_t> integers(std::string_view key) const;
  [[nodiscard]] std::vector<float> floats(std::string_view key) const;
  // What stands there, for errors.
  [[nodiscard]] std::string text_of(std::string_view key) const;
  // A key that is not known, and may change what the model is. \throws Error (kUnsupported) naming it.
  [[noreturn]] void refuse(std::string_view key) const;
};

// \throws Error (kCorruptFile, kUnsupported) naming key or tensor. Allocates no
// more than a small multiple of the bytes given.
Gguf parse_gguf(std::span<const std::byte> bytes, const std::string& where);

}  // namespace metal_marlin
