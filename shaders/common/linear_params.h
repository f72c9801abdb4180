// Arguments of the matrix kernels, for the shaders and for the code that starts them.
#pragma once
#include "params.h"

// y[token][row] = act(sum + bias[row]) (+ y), and what surrounds it.
struct LinearParams {
  unsigned tokens MM_DEFAULT(0);
  unsigned x_stride MM_DEFAULT(0);    // elements between tokens of the activations
  unsigned y_stride MM_DEFAULT(0);    // elements between tokens of the result
  unsigned y_type MM_DEFAULT(0);      // 0 f32, 1 f16, 2 bf16
  unsigned bias MM_DEFAULT(0);        // whether there is one
  unsigned accumulate MM_DEFAULT(0);  // add to what is there
  unsigned activation MM_DEFAULT(0);  // ActivationKind
  unsigned x_scales MM_DEFAULT(0);    // whether tokens carry a factor
};

// A matrix in units (unit_layout.h).
struct TiledMatrixParams {
  unsigned rows MM_DEFAULT(0);
  unsigned units MM_DEFAULT(0);        // of a row
  unsigned groups MM_DEFAULT(0);       // of a row
  unsigned group_shift MM_DEFAULT(0);  // log2 of the inputs that share a scale; 30 for a whole row
  unsigned scale_type MM_DEFAULT(0);   // f16, bf16 or f32
  unsigned minima MM_DEFAULT(0);       // 0 none, 1 minima, 2 integer zeros, as floats
  float multiplier MM_DEFAULT(1);      // on every scale
  float divisor MM_DEFAULT(1);         // its inverse, where a product must be exact
  float offset MM_DEFAULT(0);          // of integer codes
};

// Several matrices of one shape.
struct BatchParams {
  unsigned rows;  // of an item's matrix
  unsigned cols;
  unsigned units;
  unsigned item_blocks;  // of 16 rows
  unsigned items;
  unsigned grouped;  // starts tell an item's rows; else tokens of LinearParams are each item's
};

// Threadgroup memory of a simdgroup of decode_gemv.
struct StreamPlan {
  unsigned region MM_DEFAULT(0);  // bytes
  unsigned tiles MM_DEFAULT(0);   // where in them tiles are staged, if they are
};
