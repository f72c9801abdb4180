#include "io/dtype.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <cstring>

#include "formats/small_floats.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

struct Entry {
  DType dtype;
  std::string_view name;
  std::size_t bytes;
};

constexpr std::array<Entry, 16> kEntries{{{DType::kF64, "F64", 8},
                                          {DType::kF32, "F32", 4},
                                          {DType::kF16, "F16", 2},
                                          {DType::kBf16, "BF16", 2},
                                          {DType::kF8E4M3, "F8_E4M3", 1},
                                          {DType::kF8E5M2, "F8_E5M2", 1},
                                          {DType::kF8E8M0, "F8_E8M0", 1},
                                          {DType::kI64, "I64", 8},
                                          {DType::kU64, "U64", 8},
                                          {DType::kI32, "I32", 4},
                                          {DType::kU32, "U32", 4},
                                          {DType::kI16, "I16", 2},
                                          {DType::kU16, "U16", 2},
                                          {DType::kI8, "I8", 1},
                                          {DType::kU8, "U8", 1},
                                          {DType::kBool, "BOOL", 1}}};

const Entry& entry(DType dtype) {
  return kEntries.at(static_cast<std::size_t>(dtype));
}

template <typename Stored, typename Decode>
void convert(std::span<const std::byte> bytes, std::size_t begin, std::size_t n, float* out, Decode decode) {
  const std::byte* const source = bytes.data() + begin * sizeof(Stored);
  for (std::size_t i = 0; i < n; ++i) {
    Stored value;
    std::memcpy(&value, source + i * sizeof(Stored), sizeof(Stored));
    out[i] = decode(value);
  }
}

}  // namespace

std::string_view dtype_name(DType dtype) {
  return entry(dtype).name;
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const Entry& candidate : kEntries) {
    if (candidate.name == name) return candidate.dtype;
  }
  return std::nullopt;
}

std::size_t dtype_bytes(DType dtype) {
  return entry(dtype).bytes;
}

bool is_float(DType dtype) {
  return dtype <= DType::kF8E5M2;
}

std::optional<std::int64_t> element_count(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t dimension : shape) {
    if (dimension < 0) return std::nullopt;
    if (__builtin_mul_overflow(count, dimension, &count) || count > (std::int64_t{1} << 62)) return std::nullopt;
  }
  return count;
}

std::string shape_text(const Shape& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

void convert_to_f32(DType dtype, std::span<const std::byte> bytes, std::size_t begin, std::size_t n, float* out) {
  switch (dtype) {
    case DType::kF64: return convert<double>(bytes, begin, n, out, [](double v) { return static_cast<float>(v); });
    case DType::kF32: return convert<float>(bytes, begin, n, out, [](float v) { return v; });
    case DType::kF16: return convert<std::uint16_t>(bytes, begin, n, out, f16_to_f32);
    case DType::kBf16: return convert<std::uint16_t>(bytes, begin, n, out, bf16_to_f32);
    case DType::kF8E4M3: return convert<std::uint8_t>(bytes, begin, n, out, e4m3_to_f32);
    case DType::kF8E5M2: return convert<std::uint8_t>(bytes, begin, n, out, e5m2_to_f32);
    default:
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("element type {} is not a floating-point type", dtype_name(dtype)));
  }
}

}  // namespace metal_marlin
