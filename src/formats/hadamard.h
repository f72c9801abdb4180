// The rotation of MR-GPTQ (arXiv 2509.23202): Sylvester's Hadamard matrix over its root, which is
// symmetric, so that it undoes itself.
#pragma once

#include <cstdint>

namespace metal_marlin {

// x = H x for each block of a row, in place. block: a power of two that divides cols.
void rotate_blocks(float* x, std::int64_t cols, std::int64_t block);

// The same along the columns of x [rows][cols]: each block of rows.
void rotate_row_blocks(float* x, std::int64_t rows, std::int64_t cols, std::int64_t block);

}  // namespace metal_marlin
