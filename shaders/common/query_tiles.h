// Attention by tiles of neighbouring queries of one sequence, which share the keys that they
// read: what flash_attention_v2 and simdgroup_attention have in common.
#pragma once
#include "packed_attention.h"
#include "packed_attention_params.h"

// A threadgroup's queries.
struct QueryTile {
  bool found;
  uint sequence;
  uint first;  // of the sequence's queries
  uint count;
  uint first_query;  // of the sequence among all
  uint queries;      // of the sequence
  uint first_key;
  uint keys;
};
// Sequences' tiles follow one another; those past the last are not found.
METAL_FUNC QueryTile query_tile(constant TiledParams& p, device const int* q_starts, device const int* k_starts,
                                uint index, uint tile_queries) {
  QueryTile t;
  t.found = false;
  t.sequence = t.first = t.count = t.first_query = t.queries = t.first_key = t.keys = 0;
  for (uint s = 0; s < p.sequences; ++s) {
    const uint queries = uint(q_starts[s + 1] - q_starts[s]);
    const uint tiles = (queries + tile_queries - 1) / tile_queries;
    if (index < tiles) {
      t.found = true;
      t.sequence = s;
      t.first = index * tile_queries;
      t.count = min(tile_queries, queries - t.first);
      t.first_query = uint(q_starts[s]);
      t.queries = queries;
      t.first_key = uint(k_starts[s]);
      t.keys = uint(k_starts[s + 1] - k_starts[s]);
      return t;
    }
    index -= tiles;
  }
  return t;
}

// Keys [begin, end) that query i of the sequence sees.
struct KeyRange {
  uint begin, end;
};
METAL_FUNC KeyRange keys_of(constant PackedParams& p, QueryTile t, uint i) {
  if (p.causal == 0) return {0, t.keys};
  const int end = int(t.keys) - int(t.queries) + int(i) + 1;
  KeyRange r;
  r.end = uint(max(end, 0));
  r.begin = p.window != 0 && r.end > p.window ? r.end - p.window : 0;
  return r;
}
// Of all queries of a tile together.
METAL_FUNC KeyRange keys_of_tile(constant PackedParams& p, QueryTile t) {
  return {keys_of(p, t, t.first).begin, keys_of(p, t, t.first + t.count - 1).end};
}

// Whether query i looks at key k.
METAL_FUNC bool in_block(constant TiledParams& p, device const uchar* blocks, uint i, uint k) {
  return p.block == 0 || blocks[ulong(i / p.block) * p.block_stride + k / p.block] != 0;
}
// Whether any query of [first, last] looks at a key of [begin, end).
METAL_FUNC bool any_in_block(constant TiledParams& p, device const uchar* blocks, uint first, uint last, uint begin,
                             uint end) {
  if (p.block == 0) return true;
  for (uint q = first / p.block; q <= last / p.block; ++q)
    for (uint k = begin / p.block; k <= (end - 1) / p.block; ++k)
      if (blocks[ulong(q) * p.block_stride + k] != 0) return true;
  return false;
}
// The first tile of `keys` keys from `first` on, and before `end`, that any query of the tile looks at.
template <uint kKeys>
METAL_FUNC uint next_tile(constant TiledParams& p, device const uchar* blocks, QueryTile t, uint first, uint end) {
  while (first < end && !any_in_block(p, blocks, t.first, t.first + t.count - 1, first, min(first + kKeys, end)))
    first += kKeys;
  return first;
}
