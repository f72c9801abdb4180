// Weight matrices in the Metal shaders' kernel layout (shaders/common/unit_layout.h).
#pragma once

#include <span>
#include <string>

#include "backends/msl/device.h"
#include "common/linear_params.h"
#include "io/checkpoint.h"

namespace metal_marlin {
class ThreadPool;
}

namespace metal_marlin::msl {

// A unit: 64 inputs of 16 rows.
constexpr std::int64_t kUnit = 64;
constexpr std::int64_t kTileRows = 16;
// Of a sparse matrix: two codes of each four, and where they stand.
constexpr std::size_t kSparseUnitBytes = 16 * 16 + 16 * 8;
constexpr std::size_t kLanes = 32;
constexpr std::size_t kSlots = 32;  // codes of a lane in a unit

// The name that kernels of a format bear, such as "e2m1".
std::string codec_name(Format format);
// What kernels subtract from codes: only integers have an offset, their least value's.
float code_offset(Format format);

struct TiledMatrix {
  TiledMatrixParams params;
  std::string codec;
  std::int64_t cols = 0;
  bool by_16 = false;  // a scale spans 16 inputs
  std::unique_ptr<Buffer> codes;
  std::unique_ptr<Buffer> scales;
  std::unique_ptr<Buffer> minima;

  // Of the codes and scales of a unit of 16 rows, as kernels copy them.
  [[nodiscard]] std::uint32_t unit_bytes() const;
  [[nodiscard]] std::size_t bytes() const { return codes->size() + scales->size() + minima->size(); }
};
// Several matrices of one shape and format lie one after another, each from a whole block of
// 16 rows on; params are then those of one, but for the multiplier, which stays 1.
// Their elements are finite, as a checkpoint gives them.
TiledMatrix make_tiled_matrix(Device& device, std::span<const PackedView> items, ThreadPool& pool);
inline TiledMatrix make_tiled_matrix(Device& device, const PackedView& packed, ThreadPool& pool) {
  return make_tiled_matrix(device, std::span(&packed, 1), pool);
}

// f16 and bf16: 16 bytes a lane and tile. f32: row by row.
struct DenseMatrix {
  DType dtype = DType::kF32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::uint32_t units = 0;
  std::unique_ptr<Buffer> values;
};
DenseMatrix make_dense_matrix(Device& device, std::span<const DenseView> items, std::int64_t rows, std::int64_t cols,
                              ThreadPool& pool);
inline DenseMatrix make_dense_matrix(Device& device, const DenseView& dense, std::int64_t rows, std::int64_t cols,
                                     ThreadPool& pool) {
  return make_dense_matrix(device, std::span(&dense, 1), rows, cols, pool);
}

// What a matrix of a weight of this kind takes on a device, with the few bytes that lie beside it.
std::size_t matrix_bytes(const WeightInfo& weight, std::int64_t rows, std::int64_t cols);

}  // namespace metal_marlin::msl
