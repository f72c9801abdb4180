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

// A super-block of 256 of a type with scales of two levels: codes of our format, integers of its groups.
struct SuperBlock {
  std::array<std::uint8_t, kSuperBlock> codes{};
  std::array<std::uint8_t, 16> scales{};  // signed ones in offset binary
  std::array<std::uint8_t, 16> minima{};
  std::uint16_t scale = 0;  // f16
  std::uint16_t minimum = 0;
};

constexpr std::uint16_t kF16Sign = 0x8000;  // GGUF's minima are subtracted, ours added

// The two low bits of the 16 runs of 16 of Q2_K and Q3_K: four shifts per 32 bytes.
void two_bits(const std::uint8_t* q, std::uint8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    const std::uint8_t* const run = q + 32 * (i / 8) + 16 * (i % 2);
    for (int l = 0; l < 16; ++l) codes[16 * i + l] = (run[l] >> (2 * (i % 8 / 2))) & 3;
  }
}

SuperBlock unpack_q2k(const std::uint8_t* block) {
  SuperBlock out;
  out.scale = load16(block + 80);
  out.minimum = load16(block + 82) ^ kF16Sign;
  two_bits(block + 16, out.codes.data());
  for (std::size_t i = 0; i < 16; ++i) {
    out.scales[i] = block[i] & 15;
    out.minima[i] = block[i] >> 4;
  }
  return out;
}

// Q3_K packs sixteen 6-bit scales: 4 low bits in 8 bytes, 2 high bits in 4.
SuperBlock unpack_q3k(const std::uint8_t* block) {
  SuperBlock out;
  const std::uint8_t* const packed = block + 96;
  out.scale = load16(block + 108);
  two_bits(block + 32, out.codes.data());
  for (std::size_t i = 0; i < kSuperBlock; ++i)
    out.codes[i] = static_cast<std::uint8_t>(out.codes[i] | ((block[i % 32] >> (i / 32)) & 1) << 2);
  for (std::size_t i = 0; i < 16; ++i) {
    const int low = i < 8 ? packed[i] & 15 : packed[i - 8] >> 4;
    const int high = (packed[8 + i % 4] >> (2 * (i / 4))) & 3;
    out.scales[i] = static_cast<std::uint8_t>(low | high << 4);
  }
  return out;
}

// Q4_K and Q5_K pack eight 6-bit scales and eight 6-bit minima in 12 bytes.
// qh: the fifth bits of Q5_K, null for Q4_K.
SuperBlock unpack_k45(const std::uint8_t* block, const std::uint8_t* qh, const std::uint8_t* qs) {
  SuperBlock out;
  const std::uint8_t* const packed = block + 4;
  out.scale = load16(block);
  out.minimum = load16(block + 2) ^ kF16Sign;
  for (std::size_t i = 0; i < 8; ++i) {
    const bool low = i < 4;
    out.scales[i] = static_cast<std::uint8_t>(low ? packed[i] & 63 : (packed[i + 4] & 15) | (packed[i - 4] >> 6) << 4);
    out.minima[i] = static_cast<std::uint8_t>(low ? packed[i + 4] & 63 : packed[i + 4] >> 4 | (packed[i] >> 6) << 4);
    const std::uint8_t* const run = qs + 32 * (i / 2);
    for (std::size_t l = 0; l < kBlock; ++l) {
      int code = i % 2 == 0 ? run[l] & 15 : run[l] >> 4;
      if (qh != nullptr) code |= ((qh[l] >> i) & 1) << 4;
      out.codes[kBlock * i + l] = static_cast<std::uint8_t>(code);
    }
  }
  return out;
}

SuperBlock unpack_q6k(const std::uint8_t* block) {
  SuperBlock out;
  out.scale = load16(block + 208);
  for (std::size_t i = 0; i < 16; ++i) out.scales[i] = block[192 + i] ^ 0x80U;  // from two's complement
  for (std::size_t i = 0; i < kSuperBlock; ++i) {
    const std::size_t half = i / 128;
    const std::size_t part = i % 128 / 32;
    const std::size_t l = i % 32;
    const int byte = block[64 * half + 32 * (part % 2) + l];
    const int high = (block[128 + 32 * half + l] >> (2 * part)) & 3;
    out.codes[i] = static_cast<std::uint8_t>((part < 2 ? byte & 15 : byte >> 4) | high << 4);
  }
  return out;
}

SuperBlock unpack_iq4xs(const std::uint8_t* block) {
  SuperBlock out;
  out.scale = load16(block);
  const std::uint16_t high = load16(block + 2);
  for (std::size_t i = 0; i < 8; ++i) {
    out.scales[i] =
        static_cast<std::uint8_t>(((block[4 + i / 2] >> (4 * (i % 2))) & 15) | ((high >> (2 * i)) & 3) << 4);
    nibbles(block + 8 + 16 * i, out.codes.data() + kBlock * i);
  }
  return out;
}

SuperBlock unpack_super_block(GgufType type, const std::uint8_t* block) {
  switch (type) {
    case GgufType::kQ2K: return unpack_q2k(block);
    case GgufType::kQ3K: return unpack_q3k(block);
    case GgufType::kQ4K: return unpack_k45(block, nullptr, block + 16);
    case GgufType::kQ5K: return unpack_k45(block, block + 16, block + 48);
    case GgufType::kQ6K: return unpack_q6k(block);
    default: return unpack_iq4xs(block);
  }
}

// Fills row `row`, by super-blocks.
void pack_super_blocks(GgufType type, const std::uint8_t* block, PackedMatrix& out, std::int64_t row) {
  const PackedLayout layout(out.spec, out.rows, out.cols);
  const auto r = static_cast<std::size_t>(row);
  const auto groups = static_cast<std::size_t>(kSuperBlock / out.spec.group);
  const auto count = static_cast<std::size_t>(out.cols / kSuperBlock);
  std::vector<std::uint8_t> codes;
  std::vector<std::uint8_t> scales;
  std::vector<std::uint8_t> minima;
  for (std::size_t b = 0; b < count; ++b, block += gguf_type_info(type).block_bytes) {
    const SuperBlock unpacked = unpack_super_block(type, block);
    const auto* const sub_scales = unpacked.scales.data();
    const auto* const sub_minima = unpacked.minima.data();
    codes.insert(codes.end(), unpacked.codes.begin(), unpacked.codes.end());
    scales.insert(scales.end(), sub_scales, sub_scales + groups);
    minima.insert(minima.end(), sub_minima, sub_minima + groups);
    std::memcpy(out.scales.data() + (r * count + b) * 2, &unpacked.scale, 2);
    if (!out.zeros.empty()) std::memcpy(out.zeros.data() + (r * count + b) * 2, &unpacked.minimum, 2);
  }
  const int bits = sub_scale_bits(out.spec.sub_scale);
  pack_codes(format_info(out.spec.format).bits, codes, out.codes.data() + r * layout.code_row_bytes);
  pack_codes(bits, scales, out.sub_scales.data() + r * layout.sub_scale_row_bytes);
  if (!out.sub_minima.empty()) pack_codes(bits, minima, out.sub_minima.data() + r * layout.sub_minimum_row_bytes);
}

void decode_super_block(GgufType type, const std::uint8_t* block, float* y) {
  const FormatSpec spec = *gguf_two_level_spec(type);
  const std::span<const float> levels = decode_table(spec.format);
  const SuperBlock unpacked = unpack_super_block(type, block);
  const auto group = static_cast<std::size_t>(spec.group);
  for (std::size_t g = 0; g < kSuperBlock / group; ++g) {
    const float scale = f16_to_f32(unpacked.scale) * sub_scale_value(spec.sub_scale, unpacked.scales[g]);
    const float minimum = f16_to_f32(unpacked.minimum) * static_cast<float>(unpacked.minima[g]);
    for (std::size_t i = g * group; i < (g + 1) * group; ++i) y[i] = scale * levels[unpacked.codes[i]] + minimum;
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

std::optional<FormatSpec> gguf_two_level_spec(GgufType type) {
  const auto spec = [](Format format, int group, SubScale sub_scale) {
    FormatSpec out = default_spec(format);
    out.group = group;
    out.sub_scale = sub_scale;
    return out;
  };
  switch (type) {
    case GgufType::kQ2K: return spec(Format::kU2, 16, SubScale::kU4);
    case GgufType::kQ3K: return spec(Format::kInt3, 16, SubScale::kS6);
    case GgufType::kQ4K: return spec(Format::kU4, 32, SubScale::kU6);
    case GgufType::kQ5K: return spec(Format::kU5, 32, SubScale::kU6);
    case GgufType::kQ6K: return spec(Format::kInt6, 16, SubScale::kS8);
    case GgufType::kIq4Xs: return spec(Format::kIq4Nl, 32, SubScale::kS6);
    default: return std::nullopt;
  }
}

std::size_t gguf_row_bytes(GgufType type, std::int64_t cols) {
  const GgufTypeInfo& info = gguf_type_info(type);
  return static_cast<std::size_t>(cols / info.block) * static_cast<std::size_t>(info.block_bytes);
}

PackedMatrix gguf_to_packed(const GgufTensor& tensor, const RowMap& map, ThreadPool& pool) {
  const std::optional<FormatSpec> two_levels = gguf_two_level_spec(tensor.type);
  const FormatSpec spec = two_levels ? *two_levels : *gguf_packed_spec(tensor.type);
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
      if (two_levels) {
        pack_super_blocks(tensor.type, block, out, row);
        continue;
      }
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
    if (gguf_two_level_spec(type)) {
      decode_super_block(type, block, y);
    } else {
      decode_simple(type, block, y);
    }
  }
}

}  // namespace metal_marlin
