// Arguments of the rotation.
#pragma once
#include "params.h"

struct RopeParams {
  unsigned q_heads MM_DEFAULT(0);
  unsigned k_heads MM_DEFAULT(0);  // 0: q alone
  unsigned head_dim MM_DEFAULT(0);
  unsigned first MM_DEFAULT(0);       // element of a head from where on it is rotated
  unsigned rotary_dim MM_DEFAULT(0);  // elements that are rotated, even
  unsigned q_stride MM_DEFAULT(0);    // elements between tokens
  unsigned k_stride MM_DEFAULT(0);
  unsigned interleaved MM_DEFAULT(0);  // pairs (2i, 2i + 1) instead of (i, i + rotary_dim / 2)
  float scale MM_DEFAULT(1);           // on cos and sin
};
