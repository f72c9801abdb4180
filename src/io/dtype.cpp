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
  unsigned bits;
};

constexpr std::array<Entry, 22> kEntries{{{DType::kF64, "F64", 64},
                                          {DType::kF32, "F32", 32},
                                          {DType::kF16, "F16", 16},
                                          {DType::kBf16, "BF16", 16},
                                          {DType::kF8E4M3, "F8_E4M3", 8},
                                          {DType::kF8E5M2, "F8_E5M2", 8},
                                          {DType::kF8E8M0, "F8_E8M0", 8},
                                          {DType::kI64, "I64", 64},
                                          {DType::kU64, "U64", 64},
                                          {DType::kI32, "I32", 32},
                                          {DType::kU32, "U32", 32},
                                          {DType::kI16, "I16", 16},
                                          {DType::kU16, "U16", 16},
                                          {DType::kI8, "I8", 8},
                                          {DType::kU8, "U8", 8},
                                          {DType::kBool, "BOOL", 8},
                                          {DType::kC64, "C64", 64},
                                          {DType::kF4, "F4", 4},
                                          {DType::kF6E2M3, "F6_E2M3", 6},
                                          {DType::kF6E3M2, "F6_E3M2", 6},
                                          {DType::kF8E4M3Fnuz, "F8_E4M3FNUZ", 8},
                                          {DType::kF8E5M2Fnuz, "F8_E5M2FNUZ", 8}}};

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
  return entry(dtype).bits / 8;
}

std::optional<std::uint64_t> stored_bytes(DType dtype, std::int64_t count) {
  std::uint64_t bits = 0;
  if (__builtin_mul_overflow(static_cast<std::uint64_t>(count), std::uint64_t{entry(dtype).bits}, &bits) ||
      bits % 8 != 0)
    return std::nullopt;
  return bits / 8;
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
