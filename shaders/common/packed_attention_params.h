// Arguments of attention over packed sequences.
#pragma once
#include "params.h"

struct PackedParams {
  unsigned heads MM_DEFAULT(0);
  unsigned kv_heads MM_DEFAULT(0);
  unsigned key_width MM_DEFAULT(0);  // of a head, at most 640; 256 in differential attention
  unsigned value_width MM_DEFAULT(0);
  unsigned causal MM_DEFAULT(0);  // aligned to the end of the keys: the last query sees all
  unsigned window MM_DEFAULT(0);  // with causal: keys that a query sees, its own included; 0: all
  // Elements between queries of the mask [queries][keys of its sequence]; 0: no mask.
  unsigned mask_stride MM_DEFAULT(0);
  unsigned sinks MM_DEFAULT(0);  // whether heads have one; set by the op
  float scale MM_DEFAULT(1);
  float soft_cap MM_DEFAULT(0);  // scores become cap * tanh(score / cap); 0: none
};

struct TiledParams {
  PackedParams packed;
  unsigned sequences MM_DEFAULT(0);
  // Block-sparse attention: blocks[query block][key block] of a sequence's own positions, zero
  // for those that nobody looks at; blocks of `block` queries and keys, rows of block_stride.
  unsigned block MM_DEFAULT(0);  // 0: dense
  unsigned block_stride MM_DEFAULT(0);
};

// Keys and values in pages; queries and results that may lie apart.
struct PageParams {
  unsigned page_shift;    // log2 of a page's tokens
  unsigned table_stride;  // pages of a sequence in the table
  unsigned q_stride;      // elements between tokens
  unsigned out_stride;
};

struct DiffParams {
  PackedParams packed;
  float eps;      // of the norm
  float factor;   // on what was normed: 1 - lambda's initial value
  unsigned norm;  // whether there is one
};
