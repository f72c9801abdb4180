// Quantized 2:4 sparse matrices on a device (shaders/sparse_gemm.metal).
#pragma once

#include "backends/msl/tiled_matrix.h"

namespace metal_marlin::msl {

struct SparseTiledMatrix {
  TiledMatrix units;  // without codes
  std::unique_ptr<Buffer> codes;

  [[nodiscard]] std::size_t bytes() const { return codes->size() + units.scales->size(); }
};
// Of a 4-bit format without zero points (fp4, mxfp4, nvfp4, s4) at most two of each four neighbours in
// a row are not zero, whether it is stored so or not. \throws Error (kUnsupported) naming another
// format, (kInvalidArgument) the row and input of a group with more.
SparseTiledMatrix make_sparse_tiled_matrix(Device& device, const std::string& name, const PackedView& packed,
                                           ThreadPool& pool);

}  // namespace metal_marlin::msl
