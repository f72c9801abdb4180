// Arguments of the kernels that decode the canonical layout.
#pragma once
#include "params.h"

struct DequantizeParams {
  unsigned rows MM_DEFAULT(0);
  unsigned cols MM_DEFAULT(0);
  unsigned group MM_DEFAULT(1);       // inputs that share a scale, at least 1
  unsigned groups MM_DEFAULT(0);      // of a row
  unsigned row_bytes MM_DEFAULT(0);   // of codes
  unsigned zero_bytes MM_DEFAULT(0);  // of a row's integer zeros
  unsigned scale_type MM_DEFAULT(0);  // codecs::ScaleType
  unsigned zero_kind MM_DEFAULT(0);   // 0 none, 1 minimum, 2 integer
  float global_scale MM_DEFAULT(1);   // divides scales of type E4M3
  float offset MM_DEFAULT(0);         // of integer codes
};
