// What a simdgroup of decode_gemv reads: some units of a row, of one band of kRowTiles
// blocks of 16 rows after another, and the activations that all of them multiply. On
// NVIDIA both run ahead, in a ring in threadgroup memory, and the first weights are
// under way before the kernel's predecessor has ended; few activations, or those for
// many bands, are copied at once and stay. Elsewhere a lane loads what it needs when
// it needs it, and other simdgroups hide the wait.
#pragma once
#include "linear.h"

// Blocks of a band, less one: the matrix may end within it.
template <int kRowTiles>
METAL_FUNC uint last_of_band(constant UnitMatrix& m, uint band) {
  return min(uint(kRowTiles), (m.rows + kTileRows - 1) / kTileRows - band * kRowTiles) - 1;
}

// Threadgroup memory of a simdgroup, as gemv_plan in src/backends/msl/linear.cpp
// makes it: bytes, where in them the ring is, where activations stay (0: nowhere), and
// where tiles are staged, if they are.
struct StreamPlan {
  uint region;
  uint ring;
  uint activations;
  uint tiles;
};

#ifdef __METAL_MARLIN_PTX__

template <typename Codec, typename S, int kColumns, int kRowTiles>
struct UnitStream {
  // Units in the ring; fewer if there are no more.
  static constant constexpr uint kAhead = 8 / (kColumns > kRowTiles ? kColumns : kRowTiles);
  static constant constexpr uint kCodeBytes = 128 * Codec::kBits;
  static constant constexpr uint kUnitBytes = 2 * kUnit;  // of a token

  BlockPointers asked;  // of the band of the next unit to ask for
  device const uchar* tokens;
  threadgroup uchar* ring;
  threadgroup uchar* resident;  // activations that stay
  uint token_count, token_stride;
  uint begin, end, bands, band_step, asked_unit, asked_band, asked_last;
  uint code_bytes, scale_bytes;  // of a block
  uint weight_bytes, stage_bytes, lane;
  uint at;                      // where the next unit lies in the ring
  threadgroup uchar* stage[2];  // units that are being read
  uint x[kColumns];             // of this lane's tokens, among a unit's
  uint flip[kColumns];          // whether halves of a unit are swapped, which spreads tokens over the banks
  bool streams;                 // activations pass through the ring

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
    device const uchar* codes = asked.codes + asked_unit * kCodeBytes + 16 * lane;
    device const uchar* scales = asked.scales + scales_offset<S>(m, asked_unit) + 16 * lane;
    threadgroup uchar* to = stage + 16 * lane;
    // Not unrolled, for registers' sake.
#pragma clang loop unroll(disable)
    for (uint tile = 0; tile < uint(kRowTiles); ++tile, to += weight_bytes) {
      for (uint i = 0; i < kCodeBytes; i += 512) {
        if (kCodeBytes % 512 == 0 || i + 16 * lane < kCodeBytes) copy_16_bytes(to + i, codes + i);
      }
      if (kCodeBytes + 16 * lane < weight_bytes) copy_16_bytes(to + kCodeBytes, scales);
      if (tile >= asked_last) continue;  // the matrix ends here; nobody reads the sums of what is copied again
      codes += code_bytes;
      scales += scale_bytes;
    }
    if (++asked_unit < end) return;
    asked_unit = begin;
    asked_band += band_step;
    asked = block_pointers<Codec::kBits>(m, asked.codes, asked.scales, band_step * kRowTiles);
    asked_last = last_of_band<kRowTiles>(m, asked_band);
  }

  // Units [first, last) of bands `band`, `band + step` ...
  METAL_FUNC void start(constant UnitMatrix& m, constant LinearParams& p, constant StreamPlan& plan,
                        BlockPointers pointers, uint band, uint step, device const half* activations,
                        threadgroup uchar* memory, uint first, uint last, uint lane_index) {
    asked = pointers;
    tokens = (device const uchar*)activations;
    token_count = p.tokens;
    token_stride = 2 * p.x_stride;
    asked_unit = begin = first;
    end = last;
    asked_band = band;
    asked_last = last_of_band<kRowTiles>(m, band);
    band_step = step;
    bands = first < last ? (m.rows + kTileRows * kRowTiles - 1) / (kTileRows * kRowTiles) : 0;
    code_bytes = m.units * kCodeBytes;
    scale_bytes = scales_of_block(m) * bytes_of_scale(m);
    ring = memory + plan.ring;
    lane = lane_index;
    at = 0;
    weight_bytes = kCodeBytes + unit_scale_bytes<S>(m);
    streams = plan.activations == 0;
    stage_bytes = kRowTiles * weight_bytes + (streams ? token_count * kUnitBytes : 0);
#pragma clang loop unroll(disable)
    for (uint i = 0; i < kAhead; ++i) {
      if (asked_band < bands) ask_weights(m, ring + i * stage_bytes);
      end_copies();
    }
    wait_for_earlier_kernels();
    resident = memory + plan.activations;
    const uint stride = streams ? kUnitBytes : (last - first) * kUnitBytes + 64;
    if (!streams) ask_all_tokens(stride);
#pragma clang loop unroll(disable)
    for (uint i = 0; i < kAhead; ++i) {
      if (streams && first + i < last) ask_tokens(ring + i * stage_bytes + kRowTiles * weight_bytes, first + i);
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

  // Goes on to units `unit` and on, kCount of them: their activations.
  template <int kCount>
  METAL_FUNC void open(thread TileTokens<half> (&out)[kCount][kColumns][kUnitTiles], uint unit) {
    for (uint i = 0; i < uint(kCount); ++i) {
      stage[i] = ring + at;
      at = at == (kAhead - 1) * stage_bytes ? 0 : at + stage_bytes;
    }
    wait_for_copies<kAhead - kCount>();
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = 0; i < uint(kCount); ++i) {
      threadgroup const uchar* from =
          streams ? stage[i] + kRowTiles * weight_bytes : resident + (unit + i - begin) * kUnitBytes;
      for (uint c = 0; c < uint(kColumns); ++c)
        load_unit(out[i][c], (threadgroup const half*)(from + x[c]), flip[c], S::kBy16);
    }
  }
  // A block's weights of the i-th of these units.
  METAL_FUNC UnitData<Codec, S> weights(constant UnitMatrix& m, BlockPointers, uint tile, uint, uint, uint i) {
    UnitData<Codec, S> data;
    threadgroup const uchar* from = stage[i] + tile * weight_bytes;
    data.codes = load_codes<Codec::kBits, FromThreadgroup>(from, lane);
    load_scales<S, FromThreadgroup>(data.scales, m, from + kCodeBytes, lane);
    return data;
  }
  // All of these units is read: others take their place.
  template <int kCount>
  METAL_FUNC void close(constant UnitMatrix& m) {
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = 0; i < uint(kCount); ++i) {
      if (asked_band < bands) {
        if (streams) ask_tokens(stage[i] + kRowTiles * weight_bytes, asked_unit);
        ask_weights(m, stage[i]);
      }
      end_copies();
    }
  }
};

#else

template <typename Codec, typename S, int kColumns, int kRowTiles>
struct UnitStream {
  device const half* x;
  uint x_stride, last_column, lane;

  METAL_FUNC void start(constant UnitMatrix&, constant LinearParams& p, constant StreamPlan&, BlockPointers, uint, uint,
                        device const half* activations, threadgroup uchar*, uint, uint, uint lane_index) {
    x = activations;
    x_stride = p.x_stride;
    last_column = (p.tokens - 1) / kTileTokens;
    lane = lane_index;
  }
  template <int kCount>
  METAL_FUNC void open(thread TileTokens<half> (&out)[kCount][kColumns][kUnitTiles], uint unit) {
    for (uint i = 0; i < uint(kCount); ++i)
      for (uint c = 0; c < uint(kColumns); ++c)
        load_unit(out[i][c], x + kTileTokens * min(c, last_column) * x_stride + (unit + i) * kUnit, x_stride);
  }
  METAL_FUNC UnitData<Codec, S> weights(constant UnitMatrix& m, BlockPointers band, uint tile, uint last, uint unit,
                                        uint) {
    const BlockPointers block = block_pointers<Codec::kBits>(m, band.codes, band.scales, min(tile, last));
    return load_unit_data<Codec, S>(m, block, unit, lane);
  }
  template <int kCount>
  METAL_FUNC void close(constant UnitMatrix&) {}
};

#endif
