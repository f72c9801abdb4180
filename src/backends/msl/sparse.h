// N:M sparse matrices on a device (shaders/sparse.metal).
#pragma once

#include "backends/msl/device.h"

namespace metal_marlin::msl {

// Of each `of` neighbouring weights of a row `kept` are kept: 1:4, 2:4, 2:8 or 4:8.
struct SparsePattern {
  std::uint32_t kept = 2;
  std::uint32_t of = 4;
};

// A matrix [rows][cols] without its zeros; the last group of a row may be short.
struct SparseMatrix {
  SparsePattern pattern;
  DType type = DType::kF32;  // or f16, bf16
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::unique_ptr<Buffer> values;     // [rows][groups][kept]
  std::unique_ptr<Buffer> positions;  // 2 or 3 bits each, words of 16 groups
};

// Room for a matrix. \throws Error (kInvalidArgument) for another pattern or type.
SparseMatrix make_sparse_matrix(Device& device, SparsePattern pattern, DType type, std::int64_t rows,
                                std::int64_t cols);
// Keeps the weights of largest size, of equals the first. weights [rows][cols] of the matrix's type.
void encode_sparse_compress(Device& device, Commands& commands, Buffer& weights, const SparseMatrix& matrix);
void encode_sparse_decompress(Device& device, Commands& commands, const SparseMatrix& matrix, Buffer& weights);
// y[tokens][rows] = x[tokens][cols] W^T, both f32.
void encode_sparse_linear(Device& device, Commands& commands, const SparseMatrix& matrix, std::int64_t tokens,
                          Buffer& x, Buffer& y);

}  // namespace metal_marlin::msl
