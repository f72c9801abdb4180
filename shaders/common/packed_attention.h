// Sequences of any lengths, packed one after another: queries [queries][heads][width],
// keys and values [keys][kv heads][width].
#pragma once
#include "attention.h"
#include "packed_attention_params.h"

// Keys [begin, end) of a query's sequence, whose first lies at `first` among all.
struct VisibleKeys {
  uint first, begin, end;
};
METAL_FUNC VisibleKeys visible_keys(constant PackedParams& p, device const int* sequences, device const int* q_starts,
                                    device const int* k_starts, uint token) {
  const int s = sequences[token];
  const int keys = k_starts[s + 1] - k_starts[s], queries = q_starts[s + 1] - q_starts[s];
  const int last = keys - queries + int(token) - q_starts[s] + 1;
  VisibleKeys v;
  v.first = uint(k_starts[s]);
  v.end = uint(max(p.causal != 0 ? last : keys, 0));
  v.begin = p.causal != 0 && p.window != 0 && v.end > p.window ? v.end - p.window : 0;
  return v;
}

// As attend() takes them.
struct PackedKeys {
  ulong first_row;
  uint row_step;  // kv heads
  uint width, key_width, key_offset, value_width, value_row_width;
  METAL_FUNC ulong key_row(uint key) const { return first_row + ulong(key) * row_step; }
  METAL_FUNC ulong value_row(uint key) const { return key_row(key); }
};
// `head_keys` elements are a head's keys, of which those from `offset` on are meant.
METAL_FUNC PackedKeys packed_keys(constant PackedParams& p, uint first, uint kv_head, uint head_keys, uint offset) {
  PackedKeys k;
  k.first_row = ulong(first) * p.kv_heads + kv_head;
  k.row_step = p.kv_heads;
  k.width = p.key_width;
  k.key_width = head_keys;
  k.key_offset = offset;
  k.value_width = k.value_row_width = p.value_width;
  return k;
}
