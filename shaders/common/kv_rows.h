// Where the keys and values of a tile's sequence and head lie, of all rows: side by side, or in pages.
#pragma once
#include "query_tiles.h"

struct PackedRows {
  ulong first;
  uint step;  // kv heads
  METAL_FUNC ulong row(uint key) const { return first + ulong(key) * step; }
};
METAL_FUNC PackedRows packed_rows(constant PackedParams& p, QueryTile t, uint kv_head) {
  PackedRows r;
  r.first = ulong(t.first_key) * p.kv_heads + kv_head;
  r.step = p.kv_heads;
  return r;
}

// Cache: [pages][kv heads][tokens of a page].
struct PagedRows {
  device const int* table;
  uint kv_heads, kv_head, page_shift;
  METAL_FUNC ulong row(uint key) const {
    const ulong page = ulong(table[key >> page_shift]);
    return ((page * kv_heads + kv_head) << page_shift) + (key & ((1u << page_shift) - 1u));
  }
};
METAL_FUNC PagedRows paged_rows(constant PackedParams& p, constant PageParams& pages, device const int* tables,
                                QueryTile t, uint kv_head) {
  PagedRows r;
  r.table = tables + ulong(t.sequence) * pages.table_stride;
  r.kv_heads = p.kv_heads;
  r.kv_head = kv_head;
  r.page_shift = pages.page_shift;
  return r;
}
