#include "backends/msl/tiled_matrix.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>

#include "backends/msl/matrix_unit.h"
#include "base/round_up.h"
#include "base/thread_pool.h"
#include "formats/codec.h"
#include "formats/number_format.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

// Puts a code into a unit's zeroed words. Slot = 2 pair + half.
void put_code(std::uint32_t* unit, int bits, std::size_t lane, std::size_t slot, unsigned code) {
  const auto pair = static_cast<unsigned>(slot / 2);
  const unsigned half = slot % 2 * 16;
  for (const int width : code_planes(bits)) {
    if (width == 0) break;
    const auto w = static_cast<unsigned>(width);
    const unsigned per_word = 16 / w;
    unit[lane * w + pair / per_word] |= (code & ((1U << w) - 1)) << (pair % per_word * w + half);
    code >>= w;
    unit += kLanes * w;
  }
}

// E2M1: magnitudes of a word's pairs and their signs, in the order of decode_word in
// shaders/common/codecs.h.
void put_e2m1(std::uint32_t* unit, std::size_t lane, std::size_t slot, unsigned code) {
  constexpr std::array<unsigned, 4> kSigns = {15, 12, 14, 13};
  const std::size_t pair = slot / 2 % 4;
  const std::uint32_t bits = (code & 7U) << (9 - 3 * pair) | code >> 3 << kSigns[pair];
  unit[lane * 4 + slot / 8] |= bits << (slot % 2 * 16);
}

// Kernel scales are f16, bf16 or f32: E4M3 lies in f16, E8M0 in bf16.
ScaleType kernel_scale(ScaleType type) {
  if (type == ScaleType::kE4m3) return ScaleType::kF16;
  if (type == ScaleType::kE8m0) return ScaleType::kBf16;
  return type;
}

TiledMatrixParams params_of(const FormatSpec& spec, std::int64_t rows, std::int64_t cols) {
  TiledMatrixParams p;
  p.rows = static_cast<std::uint32_t>(rows);
  p.units = divide_up<std::uint32_t>(cols, kUnit);
  p.groups = static_cast<std::uint32_t>(spec.groups(cols));
  p.group_shift =
      spec.group == 0 ? 30U : static_cast<std::uint32_t>(std::countr_zero(static_cast<unsigned>(spec.group)));
  p.scale_type = static_cast<std::uint32_t>(kernel_scale(spec.scale_type));
  p.minima = spec.zero == ZeroKind::kNone ? 0 : spec.zero == ZeroKind::kMinimum ? 1 : 2;
  p.offset = code_offset(spec.format);
  return p;
}

// Groups that share a unit; 0: they are as wide, or wider.
std::size_t parts_of(const TiledMatrixParams& p) {
  return p.group_shift < 6 ? std::size_t{64} >> p.group_shift : 0;
}

// Of 16 rows: whole units, where groups share one.
std::size_t scales_of_block(const TiledMatrixParams& p) {
  const std::size_t parts = parts_of(p);
  return parts > 0 ? p.units * 16 * parts : std::size_t{p.groups} * 16;
}

class UnitWriter {
 public:
  UnitWriter(std::span<const PackedView> items, const TiledMatrixParams& params, const TileMap& map)
      : items_(items), p_(params), map_(map), bits_(format_info(items[0].spec.format).bits) {
    parts_ = parts_of(p_);
    scale_type_ = static_cast<ScaleType>(p_.scale_type);
    item_blocks_ = divide_up(items[0].rows, kTileRows);
    const auto blocks = static_cast<std::size_t>(this->blocks());
    scales_per_block_ = scales_of_block(p_);
    codes.resize(blocks * p_.units * kLanes * static_cast<std::size_t>(bits_));
    scales.resize(blocks * scales_per_block_ * scale_type_bytes(scale_type_));
    if (p_.minima != 0) minima.resize(blocks * scales_per_block_);
  }

  // Of all items together.
  [[nodiscard]] std::int64_t blocks() const { return item_blocks_ * static_cast<std::int64_t>(items_.size()); }

  void write_block(std::int64_t block) {
    const PackedView& packed = items_[static_cast<std::size_t>(block / item_blocks_)];
    const auto cols = static_cast<std::size_t>(packed.cols);
    const bool e2m1 = codec_name(packed.spec.format) == "e2m1";
    std::vector<std::uint8_t> unpacked(16 * cols);
    const std::int64_t first = block % item_blocks_ * kTileRows;
    for (std::int64_t r = 0; r < kTileRows && first + r < packed.rows; ++r) {
      packed.unpack_row(first + r, unpacked.data() + static_cast<std::size_t>(r) * cols);
      write_scales(packed, block, first + r);
    }
    for (std::size_t unit = 0; unit < p_.units; ++unit) {
      std::uint32_t* const out =
          codes.data() + (static_cast<std::size_t>(block) * p_.units + unit) * kLanes * static_cast<std::size_t>(bits_);
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        for (std::size_t slot = 0; slot < kSlots; ++slot) {
          const std::size_t row = map_.row[lane][slot];
          const std::size_t col = unit * kUnit + map_.input[lane][slot];
          if (first + static_cast<std::int64_t>(row) >= packed.rows || col >= cols) continue;
          const unsigned code = unpacked[row * cols + col];
          if (e2m1) {
            put_e2m1(out, lane, slot, code);
          } else {
            put_code(out, bits_, lane, slot, code);
          }
        }
      }
    }
  }

  std::vector<std::uint32_t> codes;
  std::vector<std::byte> scales;
  std::vector<float> minima;

 private:
  void write_scales(const PackedView& packed, std::int64_t block, std::int64_t row) {
    const auto lane_row = static_cast<std::size_t>(row % 8);
    const auto half = static_cast<std::size_t>(row % kTileRows / 8);
    for (std::int64_t group = 0; group < packed.spec.groups(packed.cols); ++group) {
      const auto g = static_cast<std::size_t>(group);
      const std::size_t place = parts_ > 0 ? (g / parts_ * 8 + lane_row) * 2 * parts_ + 2 * (g % parts_) + half
                                           : (g * 8 + lane_row) * 2 + half;
      const std::size_t at = static_cast<std::size_t>(block) * scales_per_block_ + place;
      const float scale = packed.scale(row, group);
      store_scale(scale_type_, scales, at, scale);
      if (p_.minima == 0) continue;
      minima[at] = packed.spec.zero == ZeroKind::kInteger ? static_cast<float>(packed.zero(row, group))
                                                          : packed.minimum(row, group);
    }
  }

  std::span<const PackedView> items_;
  std::int64_t item_blocks_ = 0;
  const TiledMatrixParams& p_;
  const TileMap& map_;
  int bits_;
  std::size_t parts_ = 0;
  ScaleType scale_type_ = ScaleType::kF16;
  std::size_t scales_per_block_ = 0;
};

}  // namespace

std::string codec_name(Format format) {
  return std::string(number_format(format).codec);
}

std::uint32_t TiledMatrix::unit_bytes() const {
  const std::size_t blocks = divide_up<std::size_t>(params.rows, kTileRows);
  const std::uint32_t unit_scales = params.group_shift < 6 ? 1024U >> params.group_shift : 16U;
  const std::uint32_t scale_bytes = static_cast<ScaleType>(params.scale_type) == ScaleType::kF32 ? 4 : 2;
  return static_cast<std::uint32_t>(codes->size() / (blocks * params.units)) + unit_scales * scale_bytes;
}

float code_offset(Format format) {
  const NumberFormat& number = number_format(format);
  return number.kind == ElementKind::kInteger ? 0.0F - number.values.front() : 0.0F;
}

TiledMatrix make_tiled_matrix(Device& device, std::span<const PackedView> items, ThreadPool& pool) {
  const PackedView& packed = items[0];
  TiledMatrix matrix;
  matrix.codec = codec_name(packed.spec.format);
  matrix.cols = packed.cols;
  matrix.by_16 = packed.spec.group == 16;
  TiledMatrixParams& p = matrix.params = params_of(packed.spec, packed.rows, packed.cols);
  p.divisor = packed.spec.format == Format::kNvfp4 && items.size() == 1 ? packed.global_scale : 1.0F;
  p.multiplier = 1.0F / p.divisor;
  const TileMap& map = device.matrix_unit().maps[matrix.by_16 ? 1 : 0];
  UnitWriter writer(items, p, map);
  pool.parallel_for(writer.blocks(), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) writer.write_block(block);
  });
  if (writer.minima.empty()) writer.minima.resize(1);  // a buffer that kernels never read
  matrix.codes = device.allocate_with(writer.codes);
  matrix.scales = device.allocate_with(writer.scales);
  matrix.minima = device.allocate_with(writer.minima);
  return matrix;
}

namespace {

// Row by row as files have them, each item padded to the whole blocks of rows that kernels read.
std::vector<float> float_rows(std::span<const DenseView> items, std::int64_t rows, std::int64_t cols,
                              ThreadPool& pool) {
  const auto width = static_cast<std::size_t>(cols);
  const std::int64_t padded = round_up(rows, kTileRows);
  std::vector<float> values(items.size() * static_cast<std::size_t>(padded) * width);
  for (std::size_t item = 0; item < items.size(); ++item) {
    float* const out = values.data() + item * static_cast<std::size_t>(padded) * width;
    pool.parallel_for(rows, 16, [&](std::int64_t begin, std::int64_t end) {
      const std::size_t first = static_cast<std::size_t>(begin) * width;
      convert_to_f32(items[item].dtype, items[item].bytes, first, static_cast<std::size_t>(end) * width - first,
                     out + first);
    });
  }
  return values;
}

}  // namespace

DenseMatrix make_dense_matrix(Device& device, std::span<const DenseView> items, std::int64_t rows, std::int64_t cols,
                              ThreadPool& pool) {
  DenseMatrix matrix;
  matrix.rows = rows;
  matrix.cols = cols;
  matrix.units = divide_up<std::uint32_t>(cols, kUnit);
  const DType type = items[0].dtype;
  matrix.dtype = type == DType::kF16 || type == DType::kBf16 ? type : DType::kF32;
  if (matrix.dtype == DType::kF32) {
    matrix.values = device.allocate_with(float_rows(items, rows, cols, pool));
    return matrix;
  }
  const TileMap& map = device.matrix_unit().maps[0];
  const std::int64_t item_blocks = divide_up(rows, kTileRows);
  const std::int64_t blocks = item_blocks * static_cast<std::int64_t>(items.size());
  const auto width = static_cast<std::size_t>(cols);
  std::vector<std::uint16_t> values(static_cast<std::size_t>(blocks) * matrix.units * 16 * kUnit);
  pool.parallel_for(blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      const std::byte* const bytes = items[static_cast<std::size_t>(block / item_blocks)].bytes.data();
      for (std::size_t i = 0; i < matrix.units * kLanes * kSlots; ++i) {
        const std::size_t unit = i / (kLanes * kSlots);
        const std::size_t lane = i / 8 % kLanes;
        const std::size_t slot = i / (8 * kLanes) % 4 * 8 + i % 8;  // [unit][tile][lane][8]
        const std::int64_t row = block % item_blocks * kTileRows + map.row[lane][slot];
        const std::size_t col = unit * kUnit + map.input[lane][slot];
        if (row >= rows || col >= width) continue;
        std::memcpy(&values[static_cast<std::size_t>(block) * matrix.units * 16 * kUnit + i],
                    bytes + (static_cast<std::size_t>(row) * width + col) * 2, 2);
      }
    }
  });
  matrix.values = device.allocate_with(values);
  return matrix;
}

std::size_t matrix_bytes(const WeightInfo& weight, std::int64_t rows, std::int64_t cols) {
  constexpr std::size_t kBeside = 128;  // a Linear's empty buffers, an item's factor and slots of a stack's
  const auto blocks = static_cast<std::size_t>(divide_up(rows, kTileRows));
  const auto units = static_cast<std::size_t>(divide_up(cols, kUnit));
  if (!weight.packed) {
    if (weight.dtype == DType::kF16 || weight.dtype == DType::kBf16)
      return blocks * units * kTileRows * kUnit * 2 + kBeside;
    return blocks * kTileRows * static_cast<std::size_t>(cols) * sizeof(float) + kBeside;
  }
  const FormatSpec& spec = *weight.packed;
  const TiledMatrixParams p = params_of(spec, rows, cols);
  const std::size_t scales = blocks * scales_of_block(p);
  const std::size_t unit =
      spec.sparse ? kSparseUnitBytes : kUnit * kTileRows / 8 * static_cast<std::size_t>(format_info(spec.format).bits);
  return blocks * units * unit + scales * scale_type_bytes(static_cast<ScaleType>(p.scale_type)) +
         (p.minima != 0 ? scales * sizeof(float) : 0) + kBeside;
}

}  // namespace metal_marlin::msl
