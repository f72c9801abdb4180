// What a simdgroup of decode_gemv reads: some units of a row, of one block of 16 rows
// after another, and the activations that all of them multiply. On NVIDIA both run
// ahead, in a ring in threadgroup memory, and the first weights are under way before
// the kernel's predecessor has ended; few activations, or those for many blocks, are
// copied at once and stay. Elsewhere a lane loads what it needs when it needs
// it, and other simdgroups hide the wait.
#pragma once
#include "linear.h"

// Threadgroup memory of a simdgroup, as gemv_plan in src/backends/msl/linear.cpp
// makes it: bytes, where in them the ring is, and where activations stay; 0: nowhere.
struct StreamPlan {
  uint region;
  uint ring;
  uint activations;
};

#ifdef __METAL_MARLIN_PTX__

template <typename Codec, typename S, int kColumns>
struct UnitStream {
  static constant constexpr uint kAhead = kColumns == 1 ? 8 : 4;  // units in the ring; fewer if there are no more
  static constant constexpr uint kCodeBytes = 128 * Codec::kBits;
  static constant constexpr uint kUnitBytes = 2 * kUnit;  // of a token

  BlockPointers asked;  // of the next unit to ask for
  device const uchar* tokens;
  threadgroup uchar* ring;
  threadgroup uchar* resident;  // activations that stay
  uint token_count, token_stride;
  uint begin, end, blocks, block_step, asked_unit, asked_block;
  uint weight_bytes, stage_bytes, lane;
  uint at;              // where the next unit lies in the ring
  uint x[kColumns];     // of this lane's tokens, among a unit's
  uint flip[kColumns];  // whether halves of a unit are swapped, which spreads tokens over the banks
  bool streams;         // activations pass through the ring

  // The activations of a unit.
  METAL_FUNC void ask_tokens(threadgroup uchar* to, uint unit) {
    device const uchar* from = tokens + unit * kUnitBytes;
#pragma clang loop unroll(disable)
    for (uint i = lane; i < token_count * 8; i += 32)
      copy_16_bytes(to + 16 * staged_piece(i / 8, i % 8), from + i / 8 * token_stride + i % 8 * 16);
  }
  // Those of all units, that stay, `stride` bytes a token.
  METAL_FUNC void ask_all_tokens(uint stride) {
    device const uchar* from = tokens + begin * kUnitBytes;
#pragma clang loop unroll(disable)
    for (uint token = 0; token < token_count; ++token) {
#pragma clang loop unroll(disable)
      for (uint byte = 16 * lane; byte < (end - begin) * kUnitBytes; byte += 512)
        copy_16_bytes(resident + token * stride + byte, from + token * token_stride + byte);
    }
  }
  METAL_FUNC void ask_weights(constant UnitMatrix& m, threadgroup uchar* stage) {
    device const uchar* codes = asked.codes + asked_unit * kCodeBytes;
    for (uint i = 0; i < kCodeBytes; i += 512) {
      const uint byte = i + 16 * lane;
      if (kCodeBytes % 512 == 0 || byte < kCodeBytes) copy_16_bytes(stage + byte, codes + byte);
    }
    if (kCodeBytes + 16 * lane < weight_bytes)
      copy_16_bytes(stage + kCodeBytes + 16 * lane, asked.scales + scales_offset<S>(m, asked_unit) + 16 * lane);
    if (++asked_unit < end) return;
    asked_unit = begin;
    asked_block += block_step;
    asked = block_pointers<Codec::kBits>(m, asked.codes, asked.scales, block_step);
  }

  // Units [first, last) of blocks `block`, `block + step` ...
  METAL_FUNC void start(constant UnitMatrix& m, constant LinearParams& p, constant StreamPlan& plan,
                        BlockPointers pointers, uint block, uint step, device const half* activations,
                        threadgroup uchar* memory, uint first, uint last, uint lane_index) {
    asked = pointers;
    tokens = (device const uchar*)activations;
    token_count = p.tokens;
    token_stride = 2 * p.x_stride;
    asked_unit = begin = first;
    end = last;
    asked_block = block;
    block_step = step;
    blocks = first < last ? (m.rows + kTileRows - 1) / kTileRows : 0;
    ring = memory + plan.ring;
    lane = lane_index;
    at = 0;
    weight_bytes = kCodeBytes + unit_scale_bytes<S>(m);
    streams = plan.activations == 0;
    stage_bytes = weight_bytes + (streams ? token_count * kUnitBytes : 0);
#pragma clang loop unroll(disable)
    for (uint i = 0; i < kAhead; ++i) {
      if (asked_block < blocks) ask_weights(m, ring + i * stage_bytes);
      end_copies();
    }
    wait_for_earlier_kernels();
    resident = memory + plan.activations;
    const uint stride = streams ? kUnitBytes : (last - first) * kUnitBytes + 64;
    if (!streams) ask_all_tokens(stride);
#pragma clang loop unroll(disable)
    for (uint i = 0; i < kAhead; ++i) {
      if (streams && first + i < last) ask_tokens(ring + i * stage_bytes + weight_bytes, first + i);
      end_copies();
    }
    for (uint c = 0; c < uint(kColumns); ++c) {
      // Columns past the last token repeat it: nobody reads their sums.
      const uint token = min(8 * c + lane / 4, p.tokens - 1);
      x[c] = token * stride + 2 * lane_elements(S::kBy16, lane);
      flip[c] = streams ? token % 2 * (kUnit / 2) : 0;
    }
    if (!streams) wait_for_copies<0>();  // those of later kernels would delay them
    let_later_kernels_start();
  }

  // Units `unit` and on, kCount of them.
  template <int kCount>
  METAL_FUNC void take(thread UnitData<Codec, S>* data, thread TileTokens<half> (*out)[kColumns][kUnitTiles],
                       constant UnitMatrix& m, BlockPointers, uint unit) {
    threadgroup uchar* stage[kCount];
    for (uint i = 0; i < uint(kCount); ++i) {
      stage[i] = ring + at;
      at = at == (kAhead - 1) * stage_bytes ? 0 : at + stage_bytes;
    }
    wait_for_copies<kAhead - kCount>();
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = 0; i < uint(kCount); ++i) {
      data[i].codes = load_codes<Codec::kBits, FromThreadgroup>(stage[i], lane);
      load_scales<S, FromThreadgroup>(data[i].scales, m, stage[i] + kCodeBytes, lane);
      threadgroup const uchar* from = streams ? stage[i] + weight_bytes : resident + (unit + i - begin) * kUnitBytes;
      for (uint c = 0; c < uint(kColumns); ++c)
        load_unit(out[i][c], (threadgroup const half*)(from + x[c]), flip[c], S::kBy16);
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = 0; i < uint(kCount); ++i) {
      if (asked_block < blocks) {
        if (streams) ask_tokens(stage[i] + weight_bytes, asked_unit);
        ask_weights(m, stage[i]);
      }
      end_copies();
    }
  }
};

#else

template <typename Codec, typename S, int kColumns>
struct UnitStream {
  device const half* x;
  uint x_stride, lane;

  METAL_FUNC void start(constant UnitMatrix&, constant LinearParams& p, constant StreamPlan&, BlockPointers, uint, uint,
                        device const half* activations, threadgroup uchar*, uint, uint, uint lane_index) {
    x = activations;
    x_stride = p.x_stride;
    lane = lane_index;
  }
  template <int kCount>
  METAL_FUNC void take(thread UnitData<Codec, S>* data, thread TileTokens<half> (*out)[kColumns][kUnitTiles],
                       constant UnitMatrix& m, BlockPointers block, uint unit) {
    for (uint i = 0; i < uint(kCount); ++i) {
      data[i] = load_unit_data<Codec, S>(m, block, unit + i, lane);
      for (uint c = 0; c < uint(kColumns); ++c)
        load_unit(out[i][c], x + 8 * c * x_stride + (unit + i) * kUnit, x_stride);
    }
  }
};

#endif
