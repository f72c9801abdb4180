#include "backends/cpu/panel_matrix.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <array>
#include <cstring>

#include "base/round_up.h"
#include "base/thread_pool.h"
#include "formats/codec.h"
#include "formats/number_format.h"
#include "formats/small_floats.h"
#include "formats/sparsity.h"
#include "metal_marlin/error.h"

namespace metal_marlin::cpu {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

PanelKind code_kind(Format format) {
  switch (number_format(format).kind) {
    case ElementKind::kE4m3: return PanelKind::kE4m3;
    case ElementKind::kE5m2: return PanelKind::kE5m2;
    default: break;
  }
  switch (format_info(format).bits) {
    case 2: return PanelKind::kCodes2;
    case 3: return PanelKind::kCodes3;
    case 4: return PanelKind::kCodes4;
    case 5: return PanelKind::kCodes5;
    case 6: return PanelKind::kCodes6;
    default: return PanelKind::kCodes8;
  }
}

// Puts the code of (row, input of the block) into a zeroed block.
void put_code(std::uint8_t* block, int bits, int row, int input, unsigned code) {
  const int chunk = input / 4;
  const int byte = 4 * row + input % 4;
  for (const int width : code_planes(bits)) {
    if (width == 0) break;
    const int per = 8 / width;
    const unsigned part = code & ((1U << width) - 1);
    std::uint8_t& target = block[64 * (chunk / per) + byte];
    target = static_cast<std::uint8_t>(target | part << (chunk % per * width));
    code >>= width;
    block += 64 * width;
  }
}

unsigned get_code(const std::uint8_t* block, int bits, int row, int input) {
  const int chunk = input / 4;
  const int byte = 4 * row + input % 4;
  unsigned code = 0;
  int place = 0;
  for (const int width : code_planes(bits)) {
    if (width == 0) break;
    const int per = 8 / width;
    const unsigned part = block[64 * (chunk / per) + byte] >> (chunk % per * width) & ((1U << width) - 1);
    code |= part << place;
    place += width;
    block += 64 * width;
  }
  return code;
}

// The two of a chunk's four codes that are kept, and their positions, into a zeroed block.
void put_sparse(std::uint8_t* block, int row, int chunk, std::span<const std::uint8_t, kSparseGroup> codes,
                std::array<std::uint8_t, 2> kept, std::uint8_t zero) {
  for (int i = 0; i < 2; ++i)
    put_code(block, 4, row, chunk / 2 * 4 + chunk % 2 * 2 + i, codes[kept[static_cast<std::size_t>(i)]] ^ zero);
  constexpr std::array<int, 3> kFirst{0, 3, 5};  // number of the first pair that begins so
  const int pair = kFirst.at(kept[0]) + kept[1] - kept[0] - 1;
  std::uint8_t& target = block[128 + 4 * row + chunk / 2];
  target = static_cast<std::uint8_t>(target | pair << (chunk % 2 * 4));
}

unsigned get_sparse(const std::uint8_t* block, int row, int input) {
  const int chunk = input / 4;
  const unsigned pair = block[128 + 4 * row + chunk / 2] >> (chunk % 2 * 4) & 15U;
  const unsigned source = kSpreadSources[8 * (chunk % 2) + static_cast<int>(pair)] >> (8 * (input % 4)) & 0xFFU;
  return source == 0x80 ? 0 : get_code(block, 4, row, chunk / 2 * 4 + static_cast<int>(source));
}

DType dense_type(DType stored) {
  switch (stored) {
    case DType::kF16:
    case DType::kBf16: return stored;
    case DType::kF8E4M3:
    case DType::kF8E5M2: return DType::kF16;  // holds them exactly
    default: return DType::kF32;
  }
}

// bf16 inputs go in pairs, as the processors' bf16 multiplication takes them.
std::size_t inputs_together(PanelKind kind) {
  return kind == PanelKind::kBf16 ? 2 : 1;
}

PanelScale scale_kind(ScaleType type) {
  switch (type) {
    case ScaleType::kF16:
    case ScaleType::kE4m3: return PanelScale::kF16;  // holds E4M3 exactly
    case ScaleType::kBf16: return PanelScale::kBf16;
    case ScaleType::kF32: return PanelScale::kF32;
    case ScaleType::kE8m0: return PanelScale::kE8m0;
  }
  return PanelScale::kF32;
}

// The type that panels hold scales in.
ScaleType stored_type(PanelScale type) {
  switch (type) {
    case PanelScale::kF16: return ScaleType::kF16;
    case PanelScale::kBf16: return ScaleType::kBf16;
    case PanelScale::kE8m0: return ScaleType::kE8m0;
    default: return ScaleType::kF32;
  }
}

}  // namespace

AlignedBuffer::AlignedBuffer(std::size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  const std::size_t alignment = bytes >= 4 * kHugePage ? kHugePage : 64;
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, rounded)));
  if (!data_) throw Error(ErrorCode::kOutOfMemory, fmt::format("cannot allocate {} bytes", bytes));
#if defined(MADV_HUGEPAGE)
  if (alignment == kHugePage) madvise(data_.get(), rounded, MADV_HUGEPAGE);
#endif
}

PanelMatrix::PanelMatrix(std::int64_t rows, std::int64_t cols) {
  view_.rows = rows;
  view_.cols = cols;
  view_.blocks = divide_up(cols, kBlock);
}

PanelMatrix::PanelMatrix(const Weight& weight, std::int64_t rows, std::int64_t cols, ThreadPool& pool)
    : PanelMatrix(rows, cols) {
  if (weight.packed()) {
    const auto& packed = std::get<PackedView>(weight.view);
    describe(packed.spec);
    if (packed.spec.format == Format::kNvfp4) view_.multiplier = 1.0F / packed.global_scale;
    pack_codes(packed, pool);
  } else {
    const auto& dense = std::get<DenseView>(weight.view);
    describe(dense.dtype);
    pack_dense(dense, pool);
  }
}

PanelMatrix::PanelMatrix(const WeightInfo& weight, std::int64_t rows, std::int64_t cols) : PanelMatrix(rows, cols) {
  if (weight.packed) {
    describe(*weight.packed);
  } else {
    describe(weight.dtype);
  }
}

void PanelMatrix::describe(DType stored) {
  const DType type = dense_type(stored);
  view_.kind = type == DType::kF16 ? PanelKind::kF16 : type == DType::kBf16 ? PanelKind::kBf16 : PanelKind::kF32;
  const auto pair = static_cast<std::int64_t>(inputs_together(view_.kind));
  view_.panel_bytes = static_cast<std::size_t>(round_up(view_.cols, pair)) * kPanelRows * dtype_bytes(type);
  sizes_.codes = view_.panel_bytes * static_cast<std::size_t>(panels());
}

void PanelMatrix::pack_dense(const DenseView& dense, ThreadPool& pool) {
  const DType type = dense_type(dense.dtype);
  const std::size_t element = dtype_bytes(type);
  const std::size_t pair = inputs_together(view_.kind);
  codes_ = AlignedBuffer(sizes_.codes);
  view_.codes = codes_.as<const std::uint8_t>();
  const bool copy = type == dense.dtype;
  const auto cols = static_cast<std::size_t>(view_.cols);
  pool.parallel_for(panels(), 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> values(cols);
    for (std::int64_t panel = begin; panel < end; ++panel) {
      std::byte* const out = codes_.data() + static_cast<std::size_t>(panel) * view_.panel_bytes;
      std::memset(out, 0, view_.panel_bytes);
      for (std::size_t r = 0; r < kPanelRows; ++r) {
        const auto row = static_cast<std::size_t>(panel) * kPanelRows + r;
        if (static_cast<std::int64_t>(row) >= view_.rows) break;
        if (!copy) convert_to_f32(dense.dtype, dense.bytes, row * cols, cols, values.data());
        for (std::size_t k = 0; k < cols; ++k) {
          std::byte* const target = out + (k / pair * pair * kPanelRows + r * pair + k % pair) * element;
          if (copy) {
            std::memcpy(target, dense.bytes.data() + (row * cols + k) * element, element);
          } else if (type == DType::kF32) {
            std::memcpy(target, &values[k], element);
          } else {
            const std::uint16_t half = f32_to_f16(values[k]);
            std::memcpy(target, &half, element);
          }
        }
      }
    }
  });
}

void PanelMatrix::describe(const FormatSpec& spec) {
  view_.kind = spec.sparse ? PanelKind::kSparse4 : code_kind(spec.format);
  view_.scale_type = scale_kind(spec.scale_type);
  view_.groups = spec.groups(view_.cols);
  view_.group = spec.group_size(view_.cols);
  view_.panel_bytes = static_cast<std::size_t>(view_.blocks) * 64 * static_cast<std::size_t>(code_bits(view_.kind));
  const auto count = static_cast<std::size_t>(panels());
  const std::size_t scales = count * static_cast<std::size_t>(view_.groups) * kPanelRows;
  sizes_.codes = view_.panel_bytes * count;
  sizes_.scales = scales * scale_type_bytes(stored_type(view_.scale_type));
  if (spec.zero == ZeroKind::kMinimum) sizes_.minima = sizes_.scales;
  if (spec.zero == ZeroKind::kInteger) sizes_.zeros = scales;
  const NumberFormat& number = number_format(spec.format);
  view_.integer = number.unit != 0;
  // Sparse codes are spread among zeros: the code 0 is zero's there, by a table.
  view_.table = number.kind == ElementKind::kE2m1 || number.kind == ElementKind::kLevels || spec.sparse;
  if (view_.table) {
    const std::size_t zero = spec.sparse ? number.zero_code : 0;
    if (view_.integer) view_.level_scale = number.unit;
    for (std::size_t i = 0; i < number.values.size(); ++i)
      view_.levels[i ^ zero] = view_.integer ? number.values[i] / number.unit : number.values[i];
  } else if (view_.integer) {
    view_.offset = 0.0F - number.values.front();
  }
}

void PanelMatrix::pack_codes(const PackedView& packed, ThreadPool& pool) {
  codes_ = AlignedBuffer(sizes_.codes);
  scales_ = AlignedBuffer(sizes_.scales);
  minima_ = AlignedBuffer(sizes_.minima);
  zeros_ = AlignedBuffer(sizes_.zeros);
  view_.codes = codes_.as<const std::uint8_t>();
  view_.scales = scales_.data();
  view_.minima = minima_.data();
  view_.zeros = zeros_.as<const std::uint8_t>();
  const ScaleType type = stored_type(view_.scale_type);
  pool.parallel_for(panels(), 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(view_.cols));
    for (std::int64_t panel = begin; panel < end; ++panel) {
      auto* const out = codes_.as<std::uint8_t>() + static_cast<std::size_t>(panel) * view_.panel_bytes;
      std::memset(out, 0, view_.panel_bytes);
      for (int r = 0; r < kPanelRows; ++r) {
        const std::int64_t row = panel * kPanelRows + r;
        const bool real = row < view_.rows;
        if (real) pack_row(packed, row, out, codes);
        for (std::int64_t group = 0; group < view_.groups; ++group) {
          const auto at = static_cast<std::size_t>((panel * view_.groups + group) * kPanelRows + r);
          // Nothing reads the outputs of padding, whatever its scale becomes.
          store_scale(type, scales_.bytes(), at, real ? packed.scale(row, group) : 0.0F);
          if (view_.minima != nullptr) store_scale(type, minima_.bytes(), at, real ? packed.minimum(row, group) : 0.0F);
          if (view_.zeros != nullptr) zeros_.data()[at] = static_cast<std::byte>(real ? packed.zero(row, group) : 0);
        }
      }
    }
  });
}

// codes: room for a row's.
void PanelMatrix::pack_row(const PackedView& packed, std::int64_t row, std::uint8_t* panel,
                           std::vector<std::uint8_t>& codes) const {
  const int bits = code_bits(view_.kind);
  const int r = static_cast<int>(row % kPanelRows);
  packed.unpack_row(row, codes.data());
  const auto block_at = [&](std::int64_t k) { return panel + static_cast<std::size_t>(k / kBlock * 64 * bits); };
  if (view_.kind != PanelKind::kSparse4) {
    for (std::int64_t k = 0; k < view_.cols; ++k)
      put_code(block_at(k), bits, r, static_cast<int>(k % kBlock), codes[static_cast<std::size_t>(k)]);
    return;
  }
  for (std::int64_t k = 0; k < view_.cols; k += kSparseGroup) {
    const auto four = std::span(codes).subspan(static_cast<std::size_t>(k)).first<kSparseGroup>();
    put_sparse(block_at(k), r, static_cast<int>(k % kBlock / kSparseGroup), four,
               *kept_positions(packed.spec.format, four), zero_code(packed.spec.format));
  }
}

unsigned PanelMatrix::code_at(const std::uint8_t* panel, int row, std::int64_t input) const {
  const int bits = code_bits(view_.kind);
  const std::uint8_t* const block = panel + static_cast<std::size_t>(input / kBlock * 64 * bits);
  const int k = static_cast<int>(input % kBlock);
  return view_.kind == PanelKind::kSparse4 ? get_sparse(block, row, k) : get_code(block, bits, row, k);
}

void PanelMatrix::decode_row(std::int64_t row, float* out) const {
  const std::int64_t panel = row / kPanelRows;
  const int r = static_cast<int>(row % kPanelRows);
  const std::uint8_t* const data = view_.codes + static_cast<std::size_t>(panel) * view_.panel_bytes;
  if (view_.scale_type == PanelScale::kNone) {
    for (std::int64_t k = 0; k < view_.cols; ++k) {
      const auto at = static_cast<std::size_t>(view_.kind == PanelKind::kBf16 ? k / 2 * 2 * kPanelRows + 2 * r + k % 2
                                                                              : k * kPanelRows + r);
      if (view_.kind == PanelKind::kF32) {
        std::memcpy(&out[k], data + at * 4, 4);
      } else {
        std::uint16_t half = 0;
        std::memcpy(&half, data + at * 2, 2);
        out[k] = view_.kind == PanelKind::kF16 ? f16_to_f32(half) : bf16_to_f32(half);
      }
    }
    return;
  }
  const ScaleType type = stored_type(view_.scale_type);
  for (std::int64_t k = 0; k < view_.cols; ++k) {
    const auto at = static_cast<std::size_t>((panel * view_.groups + k / view_.group) * kPanelRows + r);
    const unsigned code = code_at(data, r, k);
    float element = static_cast<float>(code) - view_.offset;
    if (view_.table) element = view_.levels[code] * view_.level_scale;
    if (view_.kind == PanelKind::kE4m3) element = e4m3_to_f32(static_cast<std::uint8_t>(code));
    if (view_.kind == PanelKind::kE5m2) element = e5m2_to_f32(static_cast<std::uint8_t>(code));
    if (view_.zeros != nullptr) element -= static_cast<float>(view_.zeros[at]);
    out[k] = load_scale(type, scales_.bytes(), at) * view_.multiplier * element;
    if (view_.minima != nullptr) out[k] += load_scale(type, minima_.bytes(), at);
  }
}

}  // namespace metal_marlin::cpu
