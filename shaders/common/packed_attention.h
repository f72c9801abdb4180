// Sequences of any lengths, packed one after another: queries [queries][heads][width],
// keys and values [keys][kv heads][width].
#pragma once
#include "attention.h"

struct PackedParams {
  uint heads;
  uint kv_heads;
  uint key_width;  // of a head
  uint value_width;
  uint causal;       // aligned to the end of the keys: the last query sees all
  uint window;       // with causal: keys that a query sees, its own included; 0: all
  uint mask_stride;  // elements between queries of the mask [queries][keys of its sequence]; 0: no mask
  uint sinks;        // whether heads have one
  float scale;
  float soft_cap;  // 0: none
};

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
  ulong key_base, value_base;
  uint key_stride, value_stride, key_width, value_width;
  METAL_FUNC ulong key_at(uint block) const { return key_base + ulong(block * kKeyBlock) * key_stride; }
  METAL_FUNC ulong value_at(uint block) const { return value_base + ulong(block * kKeyBlock) * value_stride; }
};
// `head_keys` elements are a head's keys, of which those from `offset` on are meant.
METAL_FUNC PackedKeys packed_keys(constant PackedParams& p, uint first, uint kv_head, uint head_keys, uint offset) {
  PackedKeys k;
  k.key_stride = p.kv_heads * head_keys;
  k.value_stride = p.kv_heads * p.value_width;
  k.key_base = ulong(first) * k.key_stride + kv_head * head_keys + offset;
  k.value_base = ulong(first) * k.value_stride + kv_head * p.value_width;
  k.key_width = p.key_width;
  k.value_width = p.value_width;
  return k;
}
