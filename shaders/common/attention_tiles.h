// How attention on the matrix units is cut into tiles, by the width of heads, in units of 64 elements, and by a
// thread's registers: for the shaders, and for the code that starts them.
#pragma once

// Prefill: what a threadgroup of four simdgroups holds at a time.
struct PrefillTile {
  unsigned keys;
  unsigned key_tiles;     // in threadgroup memory: 2 where the next is copied while one is used
  unsigned column_parts;  // simdgroups that answer the same 16 queries, each a part of the values' elements
  bool keeps_queries;     // in registers, not in threadgroup memory
};
constexpr PrefillTile prefill_tile(unsigned units, unsigned registers) {
  return registers > 128 ? PrefillTile{32, units > 2 ? 1u : 2u, 1, true}
         : units == 1    ? PrefillTile{32, 1, 1, true}
         : units == 2    ? PrefillTile{16, 1, 1, false}
                         : PrefillTile{16, 1, 2, false};
}
// That a threadgroup answers.
constexpr unsigned prefill_queries(unsigned units, unsigned registers) {
  return 4 / prefill_tile(units, registers).column_parts * 16;
}

// Over pages: what a simdgroup holds of 16 keys and their values.
struct PagedTile {
  bool loads_ahead;    // all of them before it uses any, else a unit at a time
  bool keeps_queries;  // in registers, not in threadgroup memory
};
constexpr PagedTile paged_tile(unsigned units, unsigned registers) {
  return {registers > 128 || units == 1, registers > 128 || units <= 2};
}
