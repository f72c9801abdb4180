// Arguments of products of low rank that adapters add.
#pragma once

// What one adapter has of a weight; its matrices lie behind those of the adapters before it.
struct LowRankEntry {
  unsigned first;  // ranks of the adapters before it
  unsigned rank;   // 0: it leaves the weight as it is
  float scale;
  unsigned unused;
};

struct LowRankParams {
  unsigned in;  // of an embedding: rows that are looked up
  unsigned out;
  unsigned most_rank;  // between rows of inner products
};
