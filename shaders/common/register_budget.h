// Registers that a thread of a matrix kernel holds at once, counted from its tiles. Apple's GPUs of the families
// Apple7 and Apple8 give a thread 128 of 32 bits, and spill beyond; tiles are chosen so that the count stays
// below. NVIDIA gives up to 255, and its tiles were chosen by measuring.
#pragma once
#include <metal_stdlib>

#include "attention_tiles.h"

using namespace metal;

#if defined(__METAL_MARLIN_PTX__) && !defined(MM_METAL_TILES)
constant constexpr uint kThreadRegisters = 255;
#else
constant constexpr uint kThreadRegisters = 128;
#endif

// In every matrix kernel. benchmarks/registers.py asks for the counts, and compiles NVIDIA's form in Metal's tiles
// (MM_METAL_TILES), for another compiler's count.
#if defined(MM_METAL_TILES)
#define MM_WITHIN_REGISTERS(count) msl_note_registers<(count)>()
#elif defined(__METAL_MARLIN_PTX__)
#define MM_WITHIN_REGISTERS(count) static_assert((count) > 0, "")
#else
#define MM_WITHIN_REGISTERS(count) static_assert((count) <= kThreadRegisters, "more registers than a thread has")
#endif

// Addresses, counters, parameters, and what an instruction needs on its way.
constant constexpr uint kOtherRegisters = 32;
// A lane's part of tiles of half or bfloat.
constant constexpr uint kSumRegisters = 4;
constant constexpr uint kWeightRegisters = 4;
constant constexpr uint kTokenRegisters = 2;

METAL_FUNC constexpr uint larger_of(uint a, uint b) {
  return a > b ? a : b;
}

// A product's: sums of `columns` times 8 tokens, `words` of weights not yet decoded, `weights` and `tokens`
// tiles that are multiplied, and a sum that is yet to be scaled.
METAL_FUNC constexpr uint gemm_registers(uint columns, uint words, uint weights, uint tokens) {
  return kOtherRegisters + columns * kSumRegisters + words + weights * kWeightRegisters + tokens * kTokenRegisters +
         kSumRegisters;
}

// Of f16 or bf16 weights: two tiles at a time.
METAL_FUNC constexpr uint dense_registers(uint columns) {
  return gemm_registers(columns, 0, 2, 2);
}

// simdgroup_attention's, besides queries and sums: two rows' state and keys that they see; scores with a tile of
// queries and two of keys, then scores while they become weights.
METAL_FUNC constexpr uint prefill_registers(uint units, PrefillTile tile) {
  return kOtherRegisters + (tile.keeps_queries ? 4 * units * kWeightRegisters : 0) +
         8 * units / tile.column_parts * kSumRegisters + 8 +
         larger_of(tile.keys / 8 * kSumRegisters + 2 * kTokenRegisters + (tile.keeps_queries ? 0 : kWeightRegisters),
                   tile.keys / 8 * kSumRegisters + tile.keys / 16 * kWeightRegisters);
}

// paged_matrix_attention's: pieces of 16 bytes, 4 of keys and 4 of values a unit.
METAL_FUNC constexpr uint paged_registers(uint units, PagedTile tile) {
  return kOtherRegisters + (tile.keeps_queries ? 4 * units * kTokenRegisters : 0) + 4 * units * kSumRegisters + 4 +
         (tile.loads_ahead ? 32 * units : 16) + kSumRegisters + kWeightRegisters + kTokenRegisters;
}
