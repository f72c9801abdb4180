// Arguments of attention over the pages of a cache.
#pragma once
#include "params.h"

struct PagedParams {
  unsigned heads MM_DEFAULT(0);
  unsigned kv_heads MM_DEFAULT(0);
  unsigned key_dim MM_DEFAULT(0);  // at most 640, latent attention's
  unsigned value_dim MM_DEFAULT(0);
  unsigned latent MM_DEFAULT(0);        // values are the first part of the keys; the cache has keys alone
  unsigned page_shift MM_DEFAULT(4);    // log2 of a page's tokens: 3, 4 or 5
  unsigned table_stride MM_DEFAULT(0);  // pages of a sequence in the table
  unsigned q_stride MM_DEFAULT(0);      // elements between tokens
  unsigned k_stride MM_DEFAULT(0);
  unsigned v_stride MM_DEFAULT(0);
  unsigned out_stride MM_DEFAULT(0);
  unsigned window MM_DEFAULT(0);      // keys that a query sees, itself included; 0: all
  unsigned splits MM_DEFAULT(1);      // that a query's keys are cut into, each for a threadgroup of its own
  unsigned split_keys MM_DEFAULT(0);  // at least so many in each
  float scale MM_DEFAULT(1);
  float soft_cap MM_DEFAULT(0);  // scores become cap * tanh(score / cap); 0: none
  unsigned sinks MM_DEFAULT(0);  // whether heads have one; set by the op
  // The host's: queries may be rounded to the cache's type, f16 or bf16; then the matrix units multiply.
  unsigned rounded MM_DEFAULT(0);
};

// Of latent attention, around it.
struct MlaParams {
  unsigned heads;
  unsigned nope_dim;  // of a head's query: the part without position, which comes first
  unsigned rope_dim;
  unsigned rank;  // of the latent
  unsigned page_tokens;
  unsigned table_stride;  // pages of a sequence in the table
  unsigned interleaved;   // rotates pairs (2i, 2i+1), not (i, i + rope_dim/2)
  float eps;
  float rope_scale;  // on cos and sin
};
