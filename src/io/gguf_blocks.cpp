#include "io/gguf_blocks.h"

#include <array>
#include <cstring>

#include "base/thread_pool.h"
#include "formats/codec.h"
#include "formats/small_floats.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr int kBlock = 32;

const std::uint8_t* u8(const std::byte* bytes) {
  return reinterpret_cast<const std::uint8_t*>(bytes);
}

std::uint16_t load16(const std::uint8_t* p) {
  std::uint16_t value = 0;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

float load_f16(const std::uint8_t* p) {
  return f16_to_f32(load16(p));
}

// The 32 codes of a 4-bit block: low nibbles first, then high nibbles.
void nibbles(const std::uint8_t* qs, std::uint8_t* codes) {
  for (int i = 0; i < kBlock / 2; ++i) {
    codes[i] = qs[i] & 15;
    codes[i + kBlock / 2] = qs[i] >> 4;
  }
}

// Adds the fifth bits, one of a 32-bit word for each code.
void add_fifth_bits(const std::uint8_t* qh, std::uint8_t* codes) {
  std::uint32_t word = 0;
  std::memcpy(&word, qh, sizeof(word));
  for (int i = 0; i < kBlock; ++i) codes[i] = static_cast<std::uint8_t>(codes[i] | ((word >> i) & 1U) << 4);
}

// A block of a losslessly packable type: codes of our format, raw scale bytes.
struct UnpackedBlock {
  std::array<std::uint8_t, kBlock> codes{};
  const std::uint8_t* scale = nullptr;
  const std::uint8_t* minimum = nullptr;
};

UnpackedBlock unpack_block(GgufType type, const std::uint8_t* block) {
  UnpackedBlock out;
  out.scale = block;
  switch (type) {
    case GgufType::kQ4_0:
    case GgufType::kIq4Nl: nibbles(block + 2, out.codes.data()); break;
    case GgufType::kMxfp4: nibbles(block + 1, out.codes.data()); break;
    case GgufType::kQ4_1:
      out.minimum = block + 2;
      nibbles(block + 4, out.codes.data());
      break;
    case GgufType::kQ5_0:
      nibbles(block + 6, out.codes.data());
      add_fifth_bits(block + 2, out.codes.data());
      break;
    case GgufType::kQ5_1:
      out.minimum = block + 2;
      nibbles(block + 8, out.codes.data());
      add_fifth_bits(block + 4, out.codes.data());
      break;
    default:  // Q8_0: two's complement to offset binary
      for (int i = 0; i < kBlock; ++i) out.codes[static_cast<std::size_t>(i)] = block[2 + i] ^ 0x80U;
  }
  return out;
}

void decode_q2k(const std::uint8_t* block, float* y) {
  const float d = load_f16(block + 80);
  const float dmin = load_f16(block + 82);
  const std::uint8_t* q = block + 16;
  for (int i = 0; i < 16; ++i) {  // 16 runs of 16; four shifts per 32 bytes
    const int half = i / 8;
    const int shift = 2 * ((i % 8) / 2);
    const std::uint8_t* const run = q + 32 * half + 16 * (i % 2);
    const float scale = d * static_cast<float>(block[i] & 15);
    const float minimum = dmin * static_cast<float>(block[i] >> 4);
    for (int l = 0; l < 16; ++l) y[16 * i + l] = scale * static_cast<float>((run[l] >> shift) & 3) - minimum;
  }
}

// Q3_K packs sixteen 6-bit scales: 4 low bits in 8 bytes, 2 high bits in 4.
int q3k_scale(const std::uint8_t* scales, int i) {
  const int low = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4;
  const int high = (scales[8 + i % 4] >> (2 * (i / 4))) & 3;
  return (low | high << 4) - 32;
}

void decode_q3k(const std::uint8_t* block, float* y) {
  const std::uint8_t* const high = block;
  const std::uint8_t* const q = block + 32;
  const float d = load_f16(block + 108);
  for (int i = 0; i < 16; ++i) {
    const int half = i / 8;
    const int shift = 2 * ((i % 8) / 2);
    const int bit = 4 * half + (i % 8) / 2;
    const int column = 16 * (i % 2);
    const float scale = d * static_cast<float>(q3k_scale(block + 96, i));
    for (int l = 0; l < 16; ++l) {
      const int low = (q[32 * half + column + l] >> shift) & 3;
      const int value = low - (((high[column + l] >> bit) & 1) != 0 ? 0 : 4);
      y[16 * i + l] = scale * static_cast<float>(value);
    }
  }
}

struct ScaleMin {
  float scale;
  float minimum;
};

// Q4_K and Q5_K pack eight 6-bit scales and eight 6-bit minima in 12 bytes.
ScaleMin k4_scale(const std::uint8_t* packed, int i, float d, float dmin) {
  int scale = 0;
  int minimum = 0;
  if (i < 4) {
    scale = packed[i] & 63;
    minimum = packed[i + 4] & 63;
  } else {
    scale = (packed[i + 4] & 15) | (packed[i - 4] >> 6) << 4;
    minimum = (packed[i + 4] >> 4) | (packed[i] >> 6) << 4;
  }
  return {d * static_cast<float>(scale), dmin * static_cast<float>(minimum)};
}

// qh: the fifth bits of Q5_K, null for Q4_K.
void decode_k45(const std::uint8_t* block, const std::uint8_t* qh, const std::uint8_t* qs, float* y) {
  const float d = load_f16(block);
  const float dmin = load_f16(block + 2);
  for (int i = 0; i < 8; ++i) {
    const ScaleMin group = k4_scale(block + 4, i, d, dmin);
    const std::uint8_t* const run = qs + 32 * (i / 2);
    for (int l = 0; l < kBlock; ++l) {
      int code = i % 2 == 0 ? run[l] & 15 : run[l] >> 4;
      if (qh != nullptr) code += ((qh[l] >> i) & 1) << 4;
      y[kBlock * i + l] = group.scale * static_cast<float>(code) - group.minimum;
    }
  }
}

void decode_q6k(const std::uint8_t* block, float* y) {
  const auto* const scales = reinterpret_cast<const std::int8_t*>(block + 192);
  const float d = load_f16(block + 208);
  for (int half = 0; half < 2; ++half) {
    const std::uint8_t* const low = block + 64 * half;
    const std::uint8_t* const high = block + 128 + 32 * half;
    for (int part = 0; part < 4; ++part) {
      for (int l = 0; l < 32; ++l) {
        const std::uint8_t byte = low[l + 32 * (part % 2)];
        const int nibble = part < 2 ? byte & 15 : byte >> 4;
        const int code = (nibble | ((high[l] >> (2 * part)) & 3) << 4) - 32;
        const int run = 8 * half + 2 * part + l / 16;
        const float scale = d * static_cast<float>(scales[run]);
        y[128 * half + 32 * part + l] = scale * static_cast<float>(code);
      }
    }
  }
}

void decode_iq4xs(const std::uint8_t* block, float* y) {
  const std::span<const float> levels = decode_table(Format::kIq4Nl);
  const float d = load_f16(block);
  const std::uint16_t high = load16(block + 2);
  for (int i = 0; i < 8; ++i) {
    const int scale = ((block[4 + i / 2] >> (4 * (i % 2))) & 15) | ((high >> (2 * i)) & 3) << 4;
    std::array<std::uint8_t, kBlock> codes{};
    nibbles(block + 8 + 16 * i, codes.data());
    const float factor = d * static_cast<float>(scale - 32);
    for (int l = 0; l < kBlock; ++l) y[kBlock * i + l] = factor * levels[codes[static_cast<std::size_t>(l)]];
  }
}

void decode_simple(GgufType type, const std::uint8_t* block, float* y) {
  const FormatSpec spec = *gguf_packed_spec(type);
  const std::span<const float> levels = decode_table(spec.format);
  const UnpackedBlock unpacked = unpack_block(type, block);
  const float scale = spec.scale_type == ScaleType::kE8m0 ? e8m0_to_f32(*unpacked.scale) : load_f16(unpacked.scale);
  const float minimum = unpacked.minimum == nullptr ? 0.0F : load_f16(unpacked.minimum);
  for (std::size_t i = 0; i < kBlock; ++i) y[i] = scale * levels[unpacked.codes[i]] + minimum;
}

}  // namespace

std::optional<FormatSpec> gguf_packed_spec(GgufType type) {
  switch (type) {
    case GgufType::kQ4_0: return default_spec(Format::kS4);
    case GgufType::kQ4_1: return default_spec(Format::kU4);
    case GgufType::kQ5_0: return default_spec(Format::kInt5);
    case GgufType::kQ5_1: return default_spec(Format::kU5);
    case GgufType::kQ8_0: return default_spec(Format::kInt8);
    case GgufType::kIq4Nl: return default_spec(Format::kIq4Nl);
    case GgufType::kMxfp4: return default_spec(Format::kMxfp4);
    default: return std::nullopt;
  }
}

std::size_t gguf_row_bytes(GgufType type, std::int64_t cols) {
  const GgufTypeInfo& info = gguf_type_info(type);
  return static_cast<std::size_t>(cols / info.block) * static_cast<std::size_t>(info.block_bytes);
}

PackedMatrix gguf_to_packed(const GgufTensor& tensor, const RowMap& map, ThreadPool& pool) {
  const FormatSpec spec = *gguf_packed_spec(tensor.type);
  const std::int64_t cols = tensor.shape.back();
  PackedMatrix out(spec, tensor.shape.front(), cols);
  const PackedLayout layout(spec, out.rows, cols);
  const std::size_t source_row = gguf_row_bytes(tensor.type, cols);
  const auto block_bytes = static_cast<std::size_t>(gguf_type_info(tensor.type).block_bytes);
  const std::size_t scale_bytes = scale_type_bytes(spec.scale_type);
  pool.parallel_for(out.rows, 16, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(cols));
    for (std::int64_t row = begin; row < end; ++row) {
      const auto r = static_cast<std::size_t>(row);
      const std::uint8_t* block = u8(tensor.bytes.data()) + static_cast<std::size_t>(map ? map(row) : row) * source_row;
      for (std::size_t b = 0; b < static_cast<std::size_t>(cols / kBlock); ++b, block += block_bytes) {
        const UnpackedBlock unpacked = unpack_block(tensor.type, block);
        std::memcpy(codes.data() + b * kBlock, unpacked.codes.data(), kBlock);
        std::memcpy(out.scales.data() + r * layout.scale_row_bytes + b * scale_bytes, unpacked.scale, scale_bytes);
        if (unpacked.minimum != nullptr) {
          std::memcpy(out.zeros.data() + r * layout.zero_row_bytes + b * scale_bytes, unpacked.minimum, scale_bytes);
        }
      }
      pack_codes(format_info(spec.format).bits, codes, out.codes.data() + r * layout.code_row_bytes);
    }
  });
  return out;
}

void gguf_decode_row(GgufType type, std::span<const std::byte> row, std::int64_t cols, float* out) {
  if (const auto dense = gguf_dense_type(type)) {
    convert_to_f32(*dense, row, 0, static_cast<std::size_t>(cols), out);
    return;
  }
  const GgufTypeInfo& info = gguf_type_info(type);
  const std::uint8_t* block = u8(row.data());
  for (std::int64_t i = 0; i < cols; i += info.block, block += info.block_bytes) {
    float* const y = out + i;
    switch (type) {
      case GgufType::kQ2K: decode_q2k(block, y); break;
      case GgufType::kQ3K: decode_q3k(block, y); break;
      case GgufType::kQ4K: decode_k45(block, nullptr, block + 16, y); break;
      case GgufType::kQ5K: decode_k45(block, block + 16, block + 48, y); break;
      case GgufType::kQ6K: decode_q6k(block, y); break;
      case GgufType::kIq4Xs: decode_iq4xs(block, y); break;
      default: decode_simple(type, block, y);
    }
  }
}

}  // namespace metal_marlin
