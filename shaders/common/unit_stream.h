// What a simdgroup of decode_gemv reads: some units of a band of 32 rows, and the
// activations that both of its blocks multiply. On NVIDIA both run ahead, in a ring in
// threadgroup memory, and the first weights are under way before the kernel's
// predecessor has ended. Elsewhere a lane loads what it needs when it needs it, and
// other simdgroups hide the wait.
#pragma once
#include "linear.h"
#include "unroll.h"

constant constexpr uint kBandBlocks = 2;
constant constexpr uint kBandRows = kBandBlocks * kTileRows;

#ifdef __METAL_MARLIN_PTX__

template <typename Codec, typename S, int kColumns>
struct UnitStream {
  static constant constexpr uint kAhead = kColumns == 4 ? 2 : 4;  // units in the ring
  static constant constexpr uint kCodeBytes = 128 * Codec::kBits;
  static constant constexpr uint kUnitBytes = 2 * kUnit;  // of a token

  BlockPointers band;          // this lane's 16 bytes of a unit
  device const uchar* tokens;  // this lane's 16 bytes of every fourth token
  threadgroup uchar* ring;
  uint token_count, token_stride;
  uint asked, end;                             // units: the next to ask for, and the last but one
  uint second_code_bytes, second_scale_bytes;  // from the first block to the second
  uint weight_bytes, stage_bytes, lane;
  uint at;                   // where the next unit lies in the ring
  threadgroup uchar* stage;  // the unit that is being read
  uint x[kColumns];          // of this lane's tokens, among a unit's
  uint flip[kColumns];       // whether halves of a unit are swapped, which spreads tokens over the banks

  // The activations of a unit, four tokens at a time.
  METAL_FUNC void ask_tokens(threadgroup uchar* to, uint unit) {
    device const uchar* from = tokens + unit * kUnitBytes;
    to += kBandBlocks * weight_bytes + 16 * staged_piece(lane / 8, lane % 8);
    MM_UNROLL for (uint i = 0; i < 2 * kColumns; ++i) if (4 * i + lane / 8 < token_count)
        copy_16_bytes(to + 4 * i * kUnitBytes, from + 4 * i * token_stride);
  }
  METAL_FUNC void ask_weights(constant TiledMatrix& m, threadgroup uchar* to, uint unit) {
    device const uchar* codes = band.codes + unit * kCodeBytes;
    device const uchar* scales = band.scales + scales_offset<S>(m, unit);
    to += 16 * lane;
    for (uint block = 0; block < kBandBlocks; ++block, to += weight_bytes) {
      MM_UNROLL for (uint i = 0; i < kCodeBytes; i += 512) {
        if (kCodeBytes % 512 == 0 || i + 16 * lane < kCodeBytes)
          copy_16_bytes(to + i, codes + block * second_code_bytes + i);
      }
      if (kCodeBytes + 16 * lane < weight_bytes) copy_16_bytes(to + kCodeBytes, scales + block * second_scale_bytes);
    }
  }

  // Units [first, last) of a band whose last block is `last_block`.
  METAL_FUNC void start(constant TiledMatrix& m, constant LinearParams& p, BlockPointers pointers, uint last_block,
                        device const half* activations, threadgroup uchar* memory, uint first, uint last,
                        uint lane_index) {
    lane = lane_index;
    token_count = p.tokens;
    token_stride = 2 * p.x_stride;
    band = {pointers.codes + 16 * lane, pointers.scales + 16 * lane};
    tokens = (device const uchar*)activations + lane / 8 * token_stride + lane % 8 * 16;
    ring = memory;
    end = last;
    // A band of one block copies it twice: nobody reads the second's sums.
    second_code_bytes = last_block * m.units * kCodeBytes;
    second_scale_bytes = last_block * scales_of_block(m) * bytes_of_scale(m);
    weight_bytes = kCodeBytes + unit_scale_bytes<S>(m);
    stage_bytes = kBandBlocks * weight_bytes + token_count * kUnitBytes;
#pragma clang loop unroll(disable)
    for (uint i = 0; i < kAhead; ++i) {
      if (first + i < end) ask_weights(m, ring + i * stage_bytes, first + i);
      end_copies();
    }
    wait_for_earlier_kernels();
#pragma clang loop unroll(disable)
    for (uint i = 0; i < kAhead; ++i) {
      if (first + i < end) ask_tokens(ring + i * stage_bytes, first + i);
      end_copies();
    }
    MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c) {
      // Columns past the last token repeat it: nobody reads their sums.
      const uint token = min(kTileTokens * c + lane / 4, token_count - 1);
      x[c] = token * kUnitBytes + 2 * lane_elements(S::kBy16, lane);
      flip[c] = token % 2 * (kUnit / 2);
    }
    asked = first + kAhead;
    at = 0;
    let_later_kernels_start();
  }

  // Goes on to the next unit: its activations.
  METAL_FUNC void open(thread TileTokens<half> (&out)[kColumns][kUnitTiles], uint) {
    stage = ring + at;
    at = at == (kAhead - 1) * stage_bytes ? 0 : at + stage_bytes;
    wait_for_copies<kAhead - 1>();
    simdgroup_barrier(mem_flags::mem_threadgroup);
    threadgroup const uchar* from = stage + kBandBlocks * weight_bytes;
    MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c)
        load_unit(out[c], (threadgroup const half*)(from + x[c]), flip[c], S::kBy16);
  }
  // A block's weights of this unit.
  METAL_FUNC UnitData<Codec, S> weights(constant TiledMatrix& m, uint block, uint) {
    UnitData<Codec, S> data;
    threadgroup const uchar* from = stage + block * weight_bytes;
    data.codes = load_codes<Codec::kBits, FromThreadgroup>(from, lane);
    load_scales<S, FromThreadgroup>(data.scales, m, from + kCodeBytes, lane);
    return data;
  }
  // All of this unit is read: another takes its place.
  METAL_FUNC void close(constant TiledMatrix& m) {
    simdgroup_barrier(mem_flags::mem_threadgroup);
    if (asked < end) {
      ask_tokens(stage, asked);
      ask_weights(m, stage, asked++);
    }
    end_copies();
  }
};

#else

template <typename Codec, typename S, int kColumns>
struct UnitStream {
  BlockPointers band;
  device const half* x;
  uint last_block, x_stride, last_column, lane;

  METAL_FUNC void start(constant TiledMatrix&, constant LinearParams& p, BlockPointers pointers, uint last,
                        device const half* activations, threadgroup uchar*, uint, uint, uint lane_index) {
    band = pointers;
    last_block = last;
    x = activations;
    x_stride = p.x_stride;
    last_column = (p.tokens - 1) / kTileTokens;
    lane = lane_index;
  }
  METAL_FUNC void open(thread TileTokens<half> (&out)[kColumns][kUnitTiles], uint unit) {
    MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c)
        load_unit(out[c], x + kTileTokens * min(c, last_column) * x_stride + unit * kUnit, x_stride);
  }
  METAL_FUNC UnitData<Codec, S> weights(constant TiledMatrix& m, uint block, uint unit) {
    const BlockPointers from = block_pointers<Codec::kBits>(m, band.codes, band.scales, min(block, last_block));
    return load_unit_data<Codec, S>(m, from, unit, lane);
  }
  METAL_FUNC void close(constant TiledMatrix&) {}
};

#endif
