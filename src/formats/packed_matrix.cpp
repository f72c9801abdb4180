#include "formats/packed_matrix.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/thread_pool.h"
#include "formats/codec.h"
#include "formats/group_scale.h"
#include "formats/small_floats.h"
#include "formats/sparsity.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

std::size_t packed_bytes(std::int64_t n, int bits) {
  return (static_cast<std::size_t>(n) * static_cast<std::size_t>(bits) + 7) / 8;
}

// Code `index` of a row of `count`.
unsigned load_code(std::span<const std::byte> bytes, int bits, std::int64_t row, std::int64_t count,
                   std::int64_t index) {
  const std::size_t bit = static_cast<std::size_t>(index) * static_cast<std::size_t>(bits);
  const std::size_t at = static_cast<std::size_t>(row) * packed_bytes(count, bits) + bit / 8;
  std::uint32_t word = std::to_integer<std::uint32_t>(bytes[at]);
  // Not more than the code: the next byte may be another row's, which another thread writes.
  if (bit % 8 + static_cast<std::size_t>(bits) > 8) word |= std::to_integer<std::uint32_t>(bytes[at + 1]) << 8;
  return (word >> (bit % 8)) & ((1U << bits) - 1);
}

// Codes that a row of `cols` has.
std::int64_t stored_codes(const FormatSpec& spec, std::int64_t cols) {
  return spec.sparse ? cols / 2 : cols;
}

// The two positions of a group of four, of a row's bytes: the lower in the low two bits.
unsigned position_pair(const std::byte* row, std::int64_t group) {
  return std::to_integer<unsigned>(row[group / 2]) >> (group % 2 * 4) & 15U;
}

template <typename T>
T load(std::span<const std::byte> bytes, std::size_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

template <typename T>
void store(std::span<std::byte> bytes, std::size_t index, T value) {
  std::memcpy(bytes.data() + index * sizeof(T), &value, sizeof(T));
}

void check_part(std::string_view name, std::string_view part, std::size_t found, std::size_t expected) {
  if (found == expected) return;
  throw Error(ErrorCode::kCorruptFile,
              fmt::format("tensor {}: {} take {} bytes, expected {}", name, part, found, expected));
}

struct RowResult {
  double squared_error = 0;
  double squared_weight = 0;
};

RowResult quantize_row(PackedMatrix& matrix, std::int64_t row, std::span<const float> weights,
                       std::span<const float> importance, std::uint8_t* codes) {
  RowResult result;
  const std::int64_t size = matrix.spec.group_size(matrix.cols);
  std::vector<float> pruned;
  const std::span<const float> original = weights;
  if (matrix.spec.sparse) {
    pruned.assign(weights.begin(), weights.end());
    prune(pruned, importance);
    weights = pruned;
  }
  const bool plain = importance.empty() && !matrix.spec.sparse;  // the fits' errors are the row's
  for (std::int64_t group = 0; group < matrix.spec.groups(matrix.cols); ++group) {
    const auto begin = static_cast<std::size_t>(group * size);
    const auto x = weights.subspan(begin, std::min(static_cast<std::size_t>(size), weights.size() - begin));
    const auto factors = importance.empty() ? importance : importance.subspan(begin, x.size());
    const GroupFit fit = fit_group(matrix.spec, x, matrix.global_scale, factors);
    matrix.set_scale(row, group, fit.scale);
    if (matrix.spec.zero == ZeroKind::kMinimum) matrix.set_minimum(row, group, fit.minimum);
    if (matrix.spec.zero == ZeroKind::kInteger) matrix.set_zero(row, group, fit.zero);
    encode_group(matrix.spec, x, fit, matrix.global_scale, codes + begin);
    if (plain) result.squared_error += fit.squared_error;
  }
  for (const float w : original) result.squared_weight += static_cast<double>(w) * w;
  matrix.set_codes(row, {codes, weights.size()});
  if (!plain) {
    std::vector<float> decoded(weights.size());
    matrix.view().decode_row(row, decoded.data());
    for (std::size_t i = 0; i < weights.size(); ++i)
      result.squared_error += std::pow(static_cast<double>(original[i]) - decoded[i], 2);
  }
  return result;
}

void check_finite(std::int64_t row, std::span<const float> weights) {
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (std::isfinite(weights[i])) continue;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("weight [{}, {}] is {}, expected a finite number", row, i, weights[i]));
  }
}

}  // namespace

float load_scale(ScaleType type, std::span<const std::byte> bytes, std::size_t index) {
  switch (type) {
    case ScaleType::kF16: return f16_to_f32(load<std::uint16_t>(bytes, index));
    case ScaleType::kBf16: return bf16_to_f32(load<std::uint16_t>(bytes, index));
    case ScaleType::kF32: return load<float>(bytes, index);
    case ScaleType::kE8m0: return e8m0_to_f32(load<std::uint8_t>(bytes, index));
    case ScaleType::kE4m3: return e4m3_to_f32(load<std::uint8_t>(bytes, index));
  }
  return 0;
}

void store_scale(ScaleType type, std::span<std::byte> bytes, std::size_t index, float value) {
  switch (type) {
    case ScaleType::kF16: return store(bytes, index, f32_to_f16(value));
    case ScaleType::kBf16: return store(bytes, index, f32_to_bf16(value));
    case ScaleType::kF32: return store(bytes, index, value);
    case ScaleType::kE8m0:
      return store(bytes, index, static_cast<std::uint8_t>(value == 0 ? 0 : std::ilogb(value) + 127));
    case ScaleType::kE4m3: return store(bytes, index, f32_to_e4m3(value));
  }
}

std::size_t scale_type_bytes(ScaleType type) {
  switch (type) {
    case ScaleType::kF32: return 4;
    case ScaleType::kF16:
    case ScaleType::kBf16: return 2;
    default: return 1;
  }
}

int sub_scale_bits(SubScale type) {
  switch (type) {
    case SubScale::kNone: return 0;
    case SubScale::kU4: return 4;
    case SubScale::kU6:
    case SubScale::kS6: return 6;
    case SubScale::kS8: return 8;
  }
  return 0;
}

float sub_scale_value(SubScale type, unsigned code) {
  const bool is_signed = type == SubScale::kS6 || type == SubScale::kS8;
  return static_cast<float>(static_cast<int>(code) - (is_signed ? 1 << (sub_scale_bits(type) - 1) : 0));
}

PackedLayout::PackedLayout(const FormatSpec& spec, std::int64_t rows, std::int64_t cols) {
  const int bits = format_info(spec.format).bits;
  const std::int64_t groups = spec.groups(cols);
  code_row_bytes = packed_bytes(stored_codes(spec, cols), bits);
  position_row_bytes = spec.sparse ? packed_bytes(cols / kSparseGroup, 4) : 0;
  scale_row_bytes = static_cast<std::size_t>(spec.scales(cols)) * scale_type_bytes(spec.scale_type);
  sub_scale_row_bytes = packed_bytes(groups, sub_scale_bits(spec.sub_scale));
  sub_minimum_row_bytes = spec.zero == ZeroKind::kMinimum ? sub_scale_row_bytes : 0;
  zero_row_bytes = spec.zero == ZeroKind::kMinimum   ? scale_row_bytes
                   : spec.zero == ZeroKind::kInteger ? packed_bytes(groups, bits)
                                                     : 0;
  code_bytes = static_cast<std::size_t>(rows) * code_row_bytes;
  scale_bytes = static_cast<std::size_t>(rows) * scale_row_bytes;
  zero_bytes = static_cast<std::size_t>(rows) * zero_row_bytes;
  position_bytes = static_cast<std::size_t>(rows) * position_row_bytes;
  sub_scale_bytes = static_cast<std::size_t>(rows) * sub_scale_row_bytes;
  sub_minimum_bytes = static_cast<std::size_t>(rows) * sub_minimum_row_bytes;
  global_bytes = spec.format == Format::kNvfp4 ? sizeof(float) : 0;
}

void pack_codes(int bits, std::span<const std::uint8_t> codes, std::byte* out) {
  std::uint32_t pending = 0;
  int filled = 0;
  for (const std::uint8_t code : codes) {
    pending |= static_cast<std::uint32_t>(code) << filled;
    filled += bits;
    while (filled >= 8) {
      *out++ = static_cast<std::byte>(pending & 0xFFU);
      pending >>= 8;
      filled -= 8;
    }
  }
  if (filled > 0) *out = static_cast<std::byte>(pending & 0xFFU);
}

void unpack_codes(int bits, const std::byte* packed, std::size_t n, std::uint8_t* codes) {
  const std::uint32_t mask = (1U << bits) - 1;
  std::uint32_t pending = 0;
  int filled = 0;
  for (std::size_t i = 0; i < n; ++i) {
    if (filled < bits) {
      pending |= static_cast<std::uint32_t>(*packed++) << filled;
      filled += 8;
    }
    codes[i] = static_cast<std::uint8_t>(pending & mask);
    pending >>= bits;
    filled -= bits;
  }
}

float PackedView::scale(std::int64_t row, std::int64_t group) const {
  if (spec.sub_scale == SubScale::kNone)
    return load_scale(spec.scale_type, scales, static_cast<std::size_t>(row * spec.groups(cols) + group));
  const unsigned code = load_code(sub_scales, sub_scale_bits(spec.sub_scale), row, spec.groups(cols), group);
  return of_super_block(scales, row, group) * sub_scale_value(spec.sub_scale, code);
}

float PackedView::of_super_block(std::span<const std::byte> part, std::int64_t row, std::int64_t group) const {
  const std::int64_t block = group * spec.group / kSuperBlock;
  return load_scale(spec.scale_type, part, static_cast<std::size_t>(row * spec.scales(cols) + block));
}

float PackedView::minimum(std::int64_t row, std::int64_t group) const {
  if (spec.zero != ZeroKind::kMinimum) return 0;
  if (spec.sub_scale == SubScale::kNone)
    return load_scale(spec.scale_type, zeros, static_cast<std::size_t>(row * spec.groups(cols) + group));
  const int bits = sub_scale_bits(spec.sub_scale);
  return of_super_block(zeros, row, group) *
         static_cast<float>(load_code(sub_minima, bits, row, spec.groups(cols), group));
}

int PackedView::zero(std::int64_t row, std::int64_t group) const {
  if (spec.zero != ZeroKind::kInteger) return 0;
  return static_cast<int>(load_code(zeros, format_info(spec.format).bits, row, spec.groups(cols), group));
}

void PackedView::unpack_row(std::int64_t row, std::uint8_t* out) const {
  const int bits = format_info(spec.format).bits;
  const std::int64_t stored = stored_codes(spec, cols);
  unpack_codes(bits, codes.data() + static_cast<std::size_t>(row) * packed_bytes(stored, bits),
               static_cast<std::size_t>(stored), out);
  if (!spec.sparse) return;
  // From the last on, for each code lies before its place, or at it.
  const std::byte* const places =
      positions.data() + static_cast<std::size_t>(row) * PackedLayout(spec, 1, cols).position_bytes;
  for (std::int64_t group = cols / kSparseGroup - 1; group >= 0; --group) {
    const unsigned pair = position_pair(places, group);
    const std::uint8_t first = out[2 * group];
    const std::uint8_t second = out[2 * group + 1];
    std::uint8_t* const four = out + kSparseGroup * group;
    std::fill_n(four, kSparseGroup, zero_code(spec.format));
    four[pair & 3U] = first;
    four[pair >> 2U] = second;
  }
}

void PackedView::decode_row(std::int64_t row, float* out) const {
  std::vector<std::uint8_t> unpacked(static_cast<std::size_t>(cols));
  unpack_row(row, unpacked.data());
  const std::span<const float> table = decode_table(spec.format);
  const std::int64_t size = spec.group_size(cols);
  for (std::int64_t begin = 0, group = 0; begin < cols; begin += size, ++group) {
    const float factor = effective_scale(spec, scale(row, group), global_scale);
    const float base = minimum(row, group);
    const auto offset = static_cast<float>(zero(row, group));
    for (std::int64_t i = begin; i < std::min(begin + size, cols); ++i) {
      out[i] = factor * (table[unpacked[static_cast<std::size_t>(i)]] - offset) + base;
    }
  }
}

void PackedView::check_sizes(std::string_view name) const {
  const PackedLayout layout(spec, rows, cols);
  check_part(name, "packed codes", codes.size(), layout.code_bytes);
  check_part(name, "scales", scales.size(), layout.scale_bytes);
  check_part(name, "zeros", zeros.size(), layout.zero_bytes);
  check_part(name, "positions", positions.size(), layout.position_bytes);
  check_part(name, "scales of groups", sub_scales.size(), layout.sub_scale_bytes);
  check_part(name, "minima of groups", sub_minima.size(), layout.sub_minimum_bytes);
}

void PackedView::check_finite(std::string_view what) const {
  const std::int64_t groups = spec.groups(cols);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t group = 0; group < groups; ++group) {
      if (std::isfinite(scale(row, group)) && std::isfinite(minimum(row, group))) continue;
      throw Error(ErrorCode::kCorruptFile,
                  fmt::format("{}: the scale of row {}, group {} is not finite", what, row, group));
    }
  }
  if (!std::isfinite(global_scale) || global_scale <= 0) {
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: global scale {}, expected a positive number", what, global_scale));
  }
  const PackedLayout layout(spec, rows, cols);
  for (std::int64_t row = 0; spec.sparse && row < rows; ++row) {
    for (std::int64_t group = 0; group < cols / kSparseGroup; ++group) {
      const unsigned pair =
          position_pair(positions.data() + static_cast<std::size_t>(row) * layout.position_row_bytes, group);
      if ((pair & 3U) < pair >> 2U) continue;
      throw Error(ErrorCode::kCorruptFile,
                  fmt::format("{}: row {}, inputs {} to {}: positions {} and {} of weights that are not zero, "
                              "expected rising ones",
                              what, row, kSparseGroup * group, kSparseGroup * group + 3, pair & 3U, pair >> 2U));
    }
  }
  if (spec.format != Format::kFp8E4M3 && spec.format != Format::kFp8E5M2) return;
  const std::span<const float> levels = decode_table(spec.format);
  for (const std::byte code : codes) {
    if (!std::isfinite(levels[std::to_integer<std::size_t>(code)]))
      throw Error(ErrorCode::kCorruptFile, fmt::format("{}: holds an element that is not finite", what));
  }
}

PackedMatrix::PackedMatrix(const FormatSpec& matrix_spec, std::int64_t matrix_rows, std::int64_t matrix_cols)
    : spec(matrix_spec), rows(matrix_rows), cols(matrix_cols) {
  const PackedLayout layout(spec, rows, cols);
  codes.resize(layout.code_bytes);
  scales.resize(layout.scale_bytes);
  zeros.resize(layout.zero_bytes);
  positions.resize(layout.position_bytes);
  sub_scales.resize(layout.sub_scale_bytes);
  sub_minima.resize(layout.sub_minimum_bytes);
}

void PackedMatrix::set_scale(std::int64_t row, std::int64_t group, float value) {
  store_scale(spec.scale_type, scales, static_cast<std::size_t>(row * spec.groups(cols) + group), value);
}

void PackedMatrix::set_minimum(std::int64_t row, std::int64_t group, float value) {
  store_scale(spec.scale_type, zeros, static_cast<std::size_t>(row * spec.groups(cols) + group), value);
}

void PackedMatrix::set_zero(std::int64_t row, std::int64_t group, int value) {
  const int bits = format_info(spec.format).bits;
  const std::size_t row_bytes = packed_bytes(spec.groups(cols), bits);
  const std::size_t bit = static_cast<std::size_t>(group) * static_cast<std::size_t>(bits);
  const std::size_t at = static_cast<std::size_t>(row) * row_bytes + bit / 8;
  const auto spread = static_cast<std::uint32_t>(value) << (bit % 8);
  const auto mask = ((1U << bits) - 1) << (bit % 8);
  zeros[at] = (zeros[at] & ~static_cast<std::byte>(mask & 0xFFU)) | static_cast<std::byte>(spread & 0xFFU);
  if ((mask >> 8) != 0) {
    zeros[at + 1] = (zeros[at + 1] & ~static_cast<std::byte>(mask >> 8)) | static_cast<std::byte>(spread >> 8);
  }
}

void PackedMatrix::set_codes(std::int64_t row, std::span<const std::uint8_t> row_codes) {
  const int bits = format_info(spec.format).bits;
  const PackedLayout layout(spec, 1, cols);
  std::byte* const out = codes.data() + static_cast<std::size_t>(row) * layout.code_row_bytes;
  if (!spec.sparse) return pack_codes(bits, row_codes, out);
  std::vector<std::uint8_t> kept_codes;
  std::vector<std::uint8_t> pairs;
  for (std::size_t begin = 0; begin < row_codes.size(); begin += kSparseGroup) {
    const auto four = row_codes.subspan(begin).first<kSparseGroup>();
    const auto kept = kept_positions(spec.format, four);
    if (!kept) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("row {} has more than two weights that are not zero in inputs {} to {}; 2:4 sparse "
                              "weights are expected",
                              row, begin, begin + 3));
    }
    kept_codes.push_back(four[(*kept)[0]]);
    kept_codes.push_back(four[(*kept)[1]]);
    pairs.push_back(static_cast<std::uint8_t>((*kept)[0] | (*kept)[1] << 2));
  }
  pack_codes(bits, kept_codes, out);
  pack_codes(4, pairs, positions.data() + static_cast<std::size_t>(row) * layout.position_row_bytes);
}

float largest_magnitude(std::int64_t rows, std::int64_t cols, const RowReader& read, ThreadPool& pool) {
  std::vector<float> tops(static_cast<std::size_t>(rows));
  pool.parallel_for(rows, 16, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> row(static_cast<std::size_t>(cols));
    for (std::int64_t r = begin; r < end; ++r) {
      read(r, row.data());
      for (const float x : row)
        tops[static_cast<std::size_t>(r)] = std::max(tops[static_cast<std::size_t>(r)], std::fabs(x));
    }
  });
  const float top = tops.empty() ? 0.0F : *std::max_element(tops.begin(), tops.end());
  return std::isfinite(top) ? top : 0.0F;
}

PackedMatrix quantize_matrix(const FormatSpec& spec, std::int64_t rows, std::int64_t cols, const RowReader& read,
                             float global_scale, ThreadPool& pool, QuantizeStats* stats,
                             std::span<const float> importance) {
  validate(spec);
  if (spec.sub_scale != SubScale::kNone)
    throw Error(ErrorCode::kUnsupported, fmt::format("format {}: is read, not made", format_label(spec)));
  PackedMatrix matrix(spec, rows, cols);
  matrix.global_scale = global_scale;
  std::vector<RowResult> results(static_cast<std::size_t>(rows));
  pool.parallel_for(rows, 8, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> weights(static_cast<std::size_t>(cols));
    std::vector<std::uint8_t> codes(static_cast<std::size_t>(cols));
    for (std::int64_t row = begin; row < end; ++row) {
      read(row, weights.data());
      check_finite(row, weights);
      results[static_cast<std::size_t>(row)] = quantize_row(matrix, row, weights, importance, codes.data());
    }
  });
  if (stats != nullptr) {
    for (const RowResult& result : results) {
      stats->squared_error += result.squared_error;
      stats->squared_weight += result.squared_weight;
    }
  }
  return matrix;
}

}  // namespace metal_marlin
