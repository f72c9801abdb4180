// Numbers as a device holds them: f32, f16 or bf16.
#pragma once

#include <cstring>
#include <span>
#include <vector>

#include "backends/msl/device.h"
#include "formats/small_floats.h"

namespace metal_marlin::msl {

struct TypedData {
  // Rounds the values to the type.
  TypedData(DType t, const std::vector<float>& v) : type(t) {
    bytes.resize(v.size() * size());
    for (std::size_t i = 0; i < v.size(); ++i) {
      const std::uint32_t bits = t == DType::kF32   ? std::bit_cast<std::uint32_t>(v[i])
                                 : t == DType::kF16 ? f32_to_f16(v[i])
                                                    : f32_to_bf16(v[i]);
      std::memcpy(bytes.data() + i * size(), &bits, size());
    }
    decode();
  }
  TypedData(DType t, std::span<const std::byte> b) : type(t), bytes(b.begin(), b.end()) { decode(); }
  TypedData(DType t, const Buffer& buffer) : type(t), bytes(buffer.size()) {
    buffer.download(bytes);
    decode();
  }
  [[nodiscard]] std::size_t size() const { return type == DType::kF32 ? 4 : 2; }
  // Of a rounding to the type, relative.
  [[nodiscard]] double unit() const { return type == DType::kF32 ? 0x1p-24 : type == DType::kF16 ? 0x1p-11 : 0x1p-8; }

  DType type;
  std::vector<std::byte> bytes;
  std::vector<float> values;

 private:
  void decode() {
    values.resize(bytes.size() / size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      std::uint32_t bits = 0;
      std::memcpy(&bits, bytes.data() + i * size(), size());
      const auto half = static_cast<std::uint16_t>(bits);
      values[i] = type == DType::kF32   ? std::bit_cast<float>(bits)
                  : type == DType::kF16 ? f16_to_f32(half)
                                        : bf16_to_f32(half);
    }
  }
};

}  // namespace metal_marlin::msl
