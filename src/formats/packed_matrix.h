// The canonical packed layout of a quantized [rows, cols] matrix, as files hold
// it (docs/file-format.md). Per row, codes form one little-endian bit stream:
// code i occupies bits [i*b, (i+1)*b), so 32 codes take 4*b bytes; rows start on
// whole bytes. Scales (and minima) are [rows, groups]; integer zeros are packed
// per row like codes. A 2:4 sparse matrix has two codes of each four inputs, and
// their positions (formats/sparsity.h). Scales of two levels are those of super-blocks,
// [rows, super-blocks], and integers of the groups, packed per row like codes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "metal_marlin/format.h"

namespace metal_marlin {

class ThreadPool;

// Sizes in bytes of the parts.
struct PackedLayout {
  PackedLayout(const FormatSpec& spec, std::int64_t rows, std::int64_t cols);
  std::size_t code_row_bytes;
  std::size_t scale_row_bytes;
  std::size_t zero_row_bytes;       // minima or integer zeros, 0 where there are none
  std::size_t position_row_bytes;   // 0 but in sparse ones
  std::size_t sub_scale_row_bytes;  // of groups in super-blocks, else 0
  std::size_t sub_minimum_row_bytes;
  std::size_t code_bytes;
  std::size_t scale_bytes;
  std::size_t zero_bytes;
  std::size_t position_bytes;
  std::size_t sub_scale_bytes;
  std::size_t sub_minimum_bytes;
  std::size_t global_bytes;  // NVFP4's f32
  [[nodiscard]] std::size_t total_bytes() const {
    return code_bytes + scale_bytes + zero_bytes + position_bytes + sub_scale_bytes + sub_minimum_bytes + global_bytes;
  }
};

std::size_t scale_type_bytes(ScaleType type);
int sub_scale_bits(SubScale type);
float sub_scale_value(SubScale type, unsigned code);  // signed ones are in offset binary
// Element `index` of an array of scales (or minima).
float load_scale(ScaleType type, std::span<const std::byte> bytes, std::size_t index);
void store_scale(ScaleType type, std::span<std::byte> bytes, std::size_t index, float value);

// A quantized matrix whose bytes lie elsewhere (a mapped file, a PackedMatrix).
struct PackedView {
  FormatSpec spec;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  float global_scale = 1;
  std::span<const std::byte> codes;
  std::span<const std::byte> scales;
  std::span<const std::byte> zeros;
  std::span<const std::byte> positions = {};
  std::span<const std::byte> sub_scales = {};
  std::span<const std::byte> sub_minima = {};

  // As stored; of two levels the product, which f32 holds exactly. Minima likewise.
  [[nodiscard]] float scale(std::int64_t row, std::int64_t group) const;
  [[nodiscard]] float minimum(std::int64_t row, std::int64_t group) const;  // 0 without minima
  [[nodiscard]] int zero(std::int64_t row, std::int64_t group) const;       // 0 without integer zeros
  // Unpacks the codes of a row, one a byte, those of zero among them.
  void unpack_row(std::int64_t row, std::uint8_t* out) const;
  // The weights of a row, in f32.
  void decode_row(std::int64_t row, float* out) const;
  // \throws Error (kCorruptFile) when a part's size is not what the layout says.
  void check_sizes(std::string_view name) const;
  // \throws Error (kCorruptFile) naming the place of a scale, minimum or element that
  // is not finite, a global scale that is not positive, or positions that do not rise. what: the file and the tensor.
  void check_finite(std::string_view what) const;

 private:
  // The scale, or minimum, of the group's super-block.
  [[nodiscard]] float of_super_block(std::span<const std::byte> part, std::int64_t row, std::int64_t group) const;
};

// Owns its bytes.
struct PackedMatrix {
  PackedMatrix() = default;
  PackedMatrix(const FormatSpec& matrix_spec, std::int64_t matrix_rows, std::int64_t matrix_cols);

  FormatSpec spec;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  float global_scale = 1;
  std::vector<std::byte> codes;
  std::vector<std::byte> scales;
  std::vector<std::byte> zeros;
  std::vector<std::byte> positions;
  std::vector<std::byte> sub_scales;
  std::vector<std::byte> sub_minima;

  [[nodiscard]] PackedView view() const {
    return {spec, rows, cols, global_scale, codes, scales, zeros, positions, sub_scales, sub_minima};
  }
  void set_scale(std::int64_t row, std::int64_t group, float value);
  void set_minimum(std::int64_t row, std::int64_t group, float value);
  void set_zero(std::int64_t row, std::int64_t group, int value);
  // One a byte. Of a sparse matrix at most two of each four may be other than zero's.
  void set_codes(std::int64_t row, std::span<const std::uint8_t> codes);
};

// Packs `bits`-wide codes into a little-endian bit stream of ceil(n*bits/8) bytes.
void pack_codes(int bits, std::span<const std::uint8_t> codes, std::byte* out);
void unpack_codes(int bits, const std::byte* packed, std::size_t n, std::uint8_t* codes);

// Fills `out` with row `row` of a matrix in f32.
using RowReader = std::function<void(std::int64_t row, float* out)>;

// Of all elements; 0 if one is not finite, which the quantizer will name.
float largest_magnitude(std::int64_t rows, std::int64_t cols, const RowReader& read, ThreadPool& pool);

struct QuantizeStats {
  double squared_error = 0;   // sum over weights
  double squared_weight = 0;  // sum over weights
};

// Round-to-nearest quantization with the group scale search. The result does
// not depend on the number of threads. global_scale is NVFP4's divisor; importance, if not empty,
// has a positive factor on the squared errors of each column.
// \throws Error (kInvalidArgument) at a NaN or infinite weight, naming its place.
PackedMatrix quantize_matrix(const FormatSpec& spec, std::int64_t rows, std::int64_t cols, const RowReader& read,
                             float global_scale, ThreadPool& pool, QuantizeStats* stats = nullptr,
                             std::span<const float> importance = {});

}  // namespace metal_marlin
