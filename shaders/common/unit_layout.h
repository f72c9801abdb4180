// The kernel layout of quantized weights (src/backends/msl/tiled_matrix.h makes it).
// Rows go in blocks of 16, inputs in units of 64. A lane of a simdgroup holds 32
// codes of a unit, 8 of each of its four tiles, in planes of 8, 4, 2 or 1 bits a
// code: a plane of p bits is p words a lane, and pair q = 4 tile + pair of the
// tile lies at bits [p (q mod 16/p), +p) of both halves of word q / (16/p). E2M1
// has its bits in another order, cheaper to decode (codecs::decode_word).
//
// Scales: [block][unit][8 rows][scales of a unit][2] where a group has 16 or 32
// inputs, [block][group][8 rows][2] where it has more; the last index tells rows
// r and r + 8 apart. Minima likewise, in float.
#pragma once
#include "codecs.h"
#include "linear_params.h"
#include "register_budget.h"
#include "tile_multiply.h"
#include "unroll.h"

using TiledMatrix = TiledMatrixParams;

template <int kBits>
struct UnitCodes {
  uint words[kBits];
};

// Where weights are read from.
struct FromDevice {
  typedef device const uchar* Pointer;
  template <typename T>
  static METAL_FUNC T at(Pointer p, uint index) {
    return ((device const T*)p)[index];
  }
};
struct FromThreadgroup {
  typedef threadgroup const uchar* Pointer;
  template <typename T>
  static METAL_FUNC T at(Pointer p, uint index) {
    return ((threadgroup const T*)p)[index];
  }
};

// Words of a plane of kWidth bits of this lane.
template <int kWidth, typename Memory>
METAL_FUNC void load_plane(thread uint* words, typename Memory::Pointer plane, uint lane) {
  if (kWidth == 8) {
    const uint4 a = Memory::template at<uint4>(plane, 2 * lane), b = Memory::template at<uint4>(plane, 2 * lane + 1);
    MM_UNROLL for (uint i = 0; i < 4; ++i) {
      words[i] = a[i];
      words[4 + i] = b[i];
    }
  } else if (kWidth == 4) {
    const uint4 a = Memory::template at<uint4>(plane, lane);
    MM_UNROLL for (uint i = 0; i < 4; ++i) words[i] = a[i];
  } else if (kWidth == 2) {
    const uint2 a = Memory::template at<uint2>(plane, lane);
    words[0] = a.x;
    words[1] = a.y;
  } else {
    words[0] = Memory::template at<uint>(plane, lane);
  }
}

template <int kBits, typename Memory>
METAL_FUNC UnitCodes<kBits> load_codes(typename Memory::Pointer at, uint lane) {
  UnitCodes<kBits> out;
  if (kBits == 8) load_plane<8, Memory>(out.words, at, lane);
  if (kBits == 4 || kBits == 5 || kBits == 6) load_plane<4, Memory>(out.words, at, lane);
  if (kBits == 5) load_plane<1, Memory>(out.words + (kBits == 5 ? 4 : 0), at + 512, lane);
  if (kBits == 6) load_plane<2, Memory>(out.words + (kBits == 6 ? 4 : 0), at + 512, lane);
  if (kBits == 2 || kBits == 3) load_plane<2, Memory>(out.words, at, lane);
  if (kBits == 3) load_plane<1, Memory>(out.words + (kBits == 3 ? 2 : 0), at + 256, lane);
  return out;
}

// Pair q of a plane, in the low bits of each half.
template <int kWidth>
METAL_FUNC uint plane_pair(const thread uint* words, uint q) {
  const uint per_word = 16 / kWidth;
  const uint mask = ((1u << kWidth) - 1u) * 0x00010001u;
  return words[q / per_word] >> (q % per_word * kWidth) & mask;
}

template <int kBits>
METAL_FUNC uint code_pair(const thread UnitCodes<kBits>& c, uint q) {
  if (kBits == 8) return plane_pair<8>(c.words, q);
  if (kBits == 4) return plane_pair<4>(c.words, q);
  if (kBits == 2) return plane_pair<2>(c.words, q);
  if (kBits == 5) return plane_pair<4>(c.words, q) | plane_pair<1>(c.words + (kBits == 5 ? 4 : 0), q) << 4;
  if (kBits == 6) return plane_pair<4>(c.words, q) | plane_pair<2>(c.words + (kBits == 6 ? 4 : 0), q) << 4;
  return plane_pair<2>(c.words, q) | plane_pair<1>(c.words + (kBits == 3 ? 2 : 0), q) << 2;
}

// A codec's pair as the matrix unit takes it, and what its products are multiplied with.
template <typename Codec>
METAL_FUNC half2 matrix_pair(half2 v) {
  if (Codec::kRaise == 0 || !subnormals_are_flushed()) return v;
  return half2(raised<Codec::kRaise>(v.x), raised<Codec::kRaise>(v.y));
}
template <typename Codec>
METAL_FUNC float matrix_factor() {
  return subnormals_are_flushed() ? Codec::kFactor / float(1 << Codec::kRaise) : Codec::kFactor;
}

template <typename Codec, typename P>
METAL_FUNC TileWeights<half> decode_tile(const thread UnitCodes<Codec::kBits>& codes, uint tile, constant P& p) {
  TileWeights<half> w;
  if (Codec::kBits == 4) {
    codecs::decode_word(w.e, codes.words[tile], p, Codec());
  } else {
    MM_UNROLL for (uint q = 0; q < 4; ++q) w.e[q] = Codec::pair(code_pair<Codec::kBits>(codes, 4 * tile + q), p);
  }
  MM_UNROLL for (uint q = 0; q < 4; ++q) w.e[q] = matrix_pair<Codec>(w.e[q]);
  return w;
}

// Element e of pair q of a tile, in float.
template <typename Codec, typename P>
METAL_FUNC float unit_element(const thread UnitCodes<Codec::kBits>& codes, uint tile, uint q, uint e, constant P& p) {
  if (Codec::kBits == 4) return codecs::word_element(codes.words[tile], q, e, p, Codec());
  return Codec::element(code_pair<Codec::kBits>(codes, 4 * tile + q) >> 16 * e & 0xFFu, p);
}

METAL_FUNC uint bytes_of_scale(constant TiledMatrix& m) {
  return m.scale_type == codecs::kF32Scale ? 4 : 2;
}
// Scales of a block of rows, and where those of a unit begin among them.
METAL_FUNC uint scales_of_block(constant TiledMatrix& m) {
  return m.group_shift < 6 ? m.units << (10 - m.group_shift) : m.groups * 16;
}
METAL_FUNC uint scales_before(constant TiledMatrix& m, uint unit) {
  return m.group_shift < 6 ? unit << (10 - m.group_shift) : (unit >> (m.group_shift - 6)) * 16;
}
// Where the scales of rows r and r + 8 lie among a unit's, for its scale `part`.
METAL_FUNC uint scale_place(constant TiledMatrix& m, uint part, uint row) {
  return m.group_shift < 6 ? (row << (7 - m.group_shift)) + 2 * part : row * 2;
}

// Two f16 or bf16 scales.
METAL_FUNC float2 narrow_scales(uint type, uint v) {
  return type == codecs::kF16Scale ? float2(as_type<half2>(v))
                                   : float2(as_type<float>(v << 16), as_type<float>(v & 0xFFFF0000u));
}
// Scales of rows r and r + 8 as they are stored.
METAL_FUNC float2 stored_scales(constant TiledMatrix& m, device const uchar* scales, ulong at) {
  if (m.scale_type == codecs::kF32Scale) return *(device const float2*)(scales + at * 4);
  return narrow_scales(m.scale_type, *(device const uint*)(scales + at * 2));
}
// The place of a tile's scales among the matrix's.
METAL_FUNC ulong tile_scale_place(constant TiledMatrix& m, uint block, uint unit, uint tile, uint lane) {
  const uint part = tile >> (m.group_shift < 6 ? m.group_shift - 4 : 2);
  return ulong(block) * scales_of_block(m) + scales_before(m, unit) + scale_place(m, part, tile_row(lane));
}
// What is added to every weight of rows r and r + 8.
METAL_FUNC float2 minimum_pair(constant TiledMatrix& m, device const float* minima, ulong at, float2 scale) {
  const float2 v = float2(minima[at], minima[at + 1]);
  return m.minima == 2 ? -scale * v : v;
}

// How a kernel takes scales. kGroup inputs share one, at least: 16, 32 or 64. The
// kernels that are not general know the group (64: or more), scales of 16 bits, no
// minima: most matrices, with far fewer instructions.
template <int kGroupInputs, bool kAnyScales>
struct Scaling {
  static constant constexpr int kGroup = kGroupInputs;
  static constant constexpr bool kGeneral = kAnyScales;
  static constant constexpr bool kBy16 = kGroupInputs == 16;
  static constant constexpr uint kTiles = kGroupInputs / 16;  // that a scale spans
  static constant constexpr uint kParts = kUnitTiles / kTiles;
  static constant constexpr uint kWords = kAnyScales ? 2 * kParts : kParts;
};

// Everything of a unit that a lane needs.
template <typename Codec, typename S>
struct UnitData {
  UnitCodes<Codec::kBits> codes;
  uint scales[S::kWords];  // pairs of f16 or bf16, or of f32
};

// Of its words before they are decoded, and of a part's tiles and tokens (register_budget.h). Where subnormals
// are multiplied apart, there are tiles of them too.
template <typename Codec, typename S>
METAL_FUNC constexpr uint quantized_registers(uint columns, uint units) {
  return gemm_registers(columns, units * (Codec::kBits + S::kWords), S::kTiles * (Codec::kSplits ? 2 : 1), S::kTiles);
}

template <typename S, typename Memory>
METAL_FUNC void load_scales(thread uint* out, constant TiledMatrix& m, typename Memory::Pointer scales, uint lane) {
  const uint row = tile_row(lane);
  if (!S::kGeneral) {
    if (S::kGroup == 16) {
      const uint4 v = Memory::template at<uint4>(scales, row);
      MM_UNROLL for (uint part = 0; part < S::kParts; ++part) out[part] = v[part & 3];
    } else if (S::kGroup == 32) {
      const uint2 v = Memory::template at<uint2>(scales, row);
      MM_UNROLL for (uint part = 0; part < S::kParts; ++part) out[part] = v[part & 1];
    } else {
      out[0] = Memory::template at<uint>(scales, row);
    }
    return;
  }
  MM_UNROLL for (uint part = 0; part < S::kParts; ++part) {
    const uint place = scale_place(m, part, row);
    if (m.scale_type == codecs::kF32Scale) {
      const uint2 v = Memory::template at<uint2>(scales, place / 2);
      out[2 * part] = v.x;
      out[(2 * part + 1) % S::kWords] = v.y;
    } else {
      out[2 * part % S::kWords] = Memory::template at<uint>(scales, place / 2);
    }
  }
}

// A block of 16 rows.
struct BlockPointers {
  device const uchar* codes;
  device const uchar* scales;
};
template <int kBits>
METAL_FUNC BlockPointers block_pointers(constant TiledMatrix& m, device const uchar* codes, device const uchar* scales,
                                        uint block) {
  return {codes + ulong(block) * (m.units * (128 * kBits)),
          scales + ulong(block) * (scales_of_block(m) * bytes_of_scale(m))};
}
// In bytes, from the block's.
template <typename S>
METAL_FUNC uint scales_offset(constant TiledMatrix& m, uint unit) {
  if (S::kGeneral) return scales_before(m, unit) * bytes_of_scale(m);
  return S::kGroup < 64 ? unit * (2048 / S::kGroup) : (unit >> (m.group_shift - 6)) * 32;
}

template <typename S>
METAL_FUNC uint unit_scale_bytes(constant TiledMatrix& m) {
  if (!S::kGeneral) return S::kGroup < 64 ? 2048 / S::kGroup : 32;
  return (m.group_shift < 6 ? 1024 >> m.group_shift : 16) * bytes_of_scale(m);
}

template <typename Codec, typename S>
METAL_FUNC UnitData<Codec, S> load_unit_data(constant TiledMatrix& m, BlockPointers block, uint unit, uint lane) {
  UnitData<Codec, S> d;
  d.codes = load_codes<Codec::kBits, FromDevice>(block.codes + unit * (128 * Codec::kBits), lane);
  load_scales<S, FromDevice>(d.scales, m, block.scales + scales_offset<S>(m, unit), lane);
  return d;
}

// Scales of a part. Sums that they scale lack total_factor.
template <typename S>
METAL_FUNC float2 part_scales(constant TiledMatrix& m, const thread uint* scales, uint part) {
  if (!S::kGeneral) return narrow_scales(m.scale_type, scales[part]);
  if (m.scale_type != codecs::kF32Scale) return narrow_scales(m.scale_type, scales[2 * part % S::kWords]);
  return float2(as_type<float>(scales[2 * part % S::kWords]), as_type<float>(scales[(2 * part + 1) % S::kWords]));
}
template <typename Codec>
METAL_FUNC float total_factor(constant TiledMatrix& m) {
  return m.multiplier * matrix_factor<Codec>();
}
