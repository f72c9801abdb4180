// Arguments of the Hadamard transform.
#pragma once

struct HadamardParams {
  unsigned cols;     // of a row, whole blocks
  unsigned block;    // at most 4096
  unsigned order;    // 1, 12, 20 or 28: of the matrix that is no power of two
  unsigned inverse;  // H transposed
};
