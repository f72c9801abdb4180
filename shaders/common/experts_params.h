// Arguments of the kernels of a mixture of experts.
#pragma once
#include "gate_params.h"

struct RouterParams {
  unsigned experts;      // at most 1024
  unsigned chosen;       // of a token, at most 32
  unsigned groups;       // of experts; 1: no groups
  unsigned group_limit;  // groups that a token may choose from
  unsigned group_best;   // a group's score is the sum of its best so many: 1 or 2
  unsigned sigmoid;      // scores, else softmax
  unsigned bias;         // whether there is one
  unsigned normalize;    // weights sum up to 1 before they are scaled
  float scale;           // on the weights
  unsigned scaled;       // whether experts have factors on them of their own
};

// Experts over sorted assignments.
struct ExpertParams {
  unsigned rows;           // of an expert
  unsigned chosen;         // experts a token
  unsigned by_token;       // activations are the tokens', not the assignments'
  unsigned expert_blocks;  // of 16 rows
};

// Experts of few tokens; those of one format lie one after another.
struct DecodeParams {
  unsigned rows;  // of an expert
  unsigned cols;
  unsigned units;
  unsigned expert_blocks;  // of 16 rows
  unsigned chosen;         // experts a token
  unsigned accumulate;     // down: add to y
  unsigned biases;         // whether there are any
  GateParams gate;
};
