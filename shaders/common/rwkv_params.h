// Arguments of RWKV's recurrence.
#pragma once

struct WkvParams {
  unsigned heads;
  unsigned dim;       // of a head, at most 128; RWKV-4 has no heads: channels are heads * dim
  unsigned w_stride;  // elements of the decay between tokens; 0: the same for all (RWKV-5)
};
