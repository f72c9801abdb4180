// Quantized matrices decoded on a device, bit for bit as src/formats does, to f32 or
// rounded once to f16 or bf16: from the canonical layout of files and from the kernel
// layout.
#pragma once

#include "backends/msl/tiled_matrix.h"
#include "common/dequantize_params.h"

namespace metal_marlin::msl {

// A matrix on a device as files have it.
struct CanonicalMatrix {
  DequantizeParams params;
  std::string codec;
  std::unique_ptr<Buffer> codes;
  std::unique_ptr<Buffer> scales;
  std::unique_ptr<Buffer> zeros;
};
CanonicalMatrix make_canonical_matrix(Device& device, const PackedView& packed);

// Writes `out`, [rows][cols] of type f32, f16 or bf16.
// \throws Error (kInvalidArgument) for another type or too small a buffer.
void encode_dequantize(Device& device, Commands& commands, const CanonicalMatrix& matrix, DType type, Buffer& out);
void encode_dequantize(Device& device, Commands& commands, const TiledMatrix& matrix, DType type, Buffer& out);

// Rows ids[i] (i32 [count]) as f32: out[i] = matrix[ids[i]].
void encode_embed(Device& device, Commands& commands, const TiledMatrix& matrix, std::int64_t count, Buffer& ids,
                  Buffer& out);
void encode_embed(Device& device, Commands& commands, const DenseMatrix& matrix, std::int64_t count, Buffer& ids,
                  Buffer& out);

}  // namespace metal_marlin::msl
