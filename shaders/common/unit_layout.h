// The kernel layout of quantized weights (src/backends/msl/unit_matrix.h makes it).
// Rows go in blocks of 16, inputs in units of 64. A lane of a simdgroup holds 32
// codes of a unit, 8 of each of its four tiles, in planes of 8, 4, 2 or 1 bits a
// code: a plane of p bits is p words a lane, and pair q = 4 tile + pair of the
// tile lies at bits [p (q mod 16/p), +p) of both halves of word q / (16/p).
//
// Scales: [block][unit][8 rows][scales of a unit][2] where a group has 16 or 32
// inputs, [block][group][8 rows][2] where it has more; the last index tells rows
// r and r + 8 apart. Minima likewise, in float.
#pragma once
#include "codecs.h"
#include "tile_multiply.h"

struct UnitMatrix {
  uint rows;
  uint units;        // of a row
  uint groups;       // of a row
  uint group_shift;  // log2 of the inputs that share a scale; 30 for a whole row
  uint scale_type;   // f16, bf16 or f32
  uint minima;       // 0 none, 1 minima, 2 integer zeros, as floats
  float multiplier;  // on every scale
  float divisor;     // its inverse, where a product must be exact
  float offset;      // of integer codes
};

template <int kBits>
struct UnitCodes {
  uint words[kBits];
};

// Words of a plane of kWidth bits of this lane.
template <int kWidth>
METAL_FUNC void load_plane(thread uint* words, device const uint* plane, uint lane) {
  if (kWidth == 8) {
    const uint4 a = ((device const uint4*)plane)[2 * lane], b = ((device const uint4*)plane)[2 * lane + 1];
    for (uint i = 0; i < 4; ++i) {
      words[i] = a[i];
      words[4 + i] = b[i];
    }
  } else if (kWidth == 4) {
    const uint4 a = ((device const uint4*)plane)[lane];
    for (uint i = 0; i < 4; ++i) words[i] = a[i];
  } else if (kWidth == 2) {
    const uint2 a = ((device const uint2*)plane)[lane];
    words[0] = a.x;
    words[1] = a.y;
  } else {
    words[0] = plane[lane];
  }
}

template <int kBits>
METAL_FUNC UnitCodes<kBits> load_codes(device const uint* codes, ulong unit, uint lane) {
  UnitCodes<kBits> out;
  device const uint* at = codes + unit * (32 * kBits);
  if (kBits == 8) load_plane<8>(out.words, at, lane);
  if (kBits == 4 || kBits == 5 || kBits == 6) load_plane<4>(out.words, at, lane);
  if (kBits == 5) load_plane<1>(out.words + (kBits == 5 ? 4 : 0), at + 128, lane);
  if (kBits == 6) load_plane<2>(out.words + (kBits == 6 ? 4 : 0), at + 128, lane);
  if (kBits == 2 || kBits == 3) load_plane<2>(out.words, at, lane);
  if (kBits == 3) load_plane<1>(out.words + (kBits == 3 ? 2 : 0), at + 64, lane);
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

template <typename Codec, typename P>
METAL_FUNC TileWeights<half> decode_tile(const thread UnitCodes<Codec::kBits>& codes, uint tile, constant P& p) {
  TileWeights<half> w;
  for (uint q = 0; q < 4; ++q) w.e[q] = Codec::pair(code_pair<Codec::kBits>(codes, 4 * tile + q), p);
  return w;
}

// Where the scales of rows r and r + 8 lie, for scale `part` of a unit.
METAL_FUNC ulong scale_place(constant UnitMatrix& m, uint block, uint unit, uint part, uint row) {
  if (m.group_shift < 6) return (((ulong(block) * m.units + unit) * 8 + row) << (7 - m.group_shift)) + 2 * part;
  return ((ulong(block) * m.groups + min(unit >> (m.group_shift - 6), m.groups - 1)) * 8 + row) * 2;
}

// Two f16 or bf16 scales.
METAL_FUNC float2 narrow_scales(uint type, uint v) {
  return type == codecs::kF16Scale ? float2(as_type<half2>(v))
                                   : float2(as_type<float>(v << 16), as_type<float>(v & 0xFFFF0000u));
}
// Scales of rows r and r + 8 as they are stored.
METAL_FUNC float2 stored_scales(constant UnitMatrix& m, device const uchar* scales, ulong at) {
  if (m.scale_type == codecs::kF32Scale) return *(device const float2*)(scales + at * 4);
  return narrow_scales(m.scale_type, *(device const uint*)(scales + at * 2));
}
// What is added to every weight of rows r and r + 8.
METAL_FUNC float2 minimum_pair(constant UnitMatrix& m, device const float* minima, ulong at, float2 scale) {
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

// Everything of a unit that a lane needs, asked for at once, long before use.
template <typename Codec, typename S>
struct UnitData {
  UnitCodes<Codec::kBits> codes;
  uint scales[S::kWords];  // pairs of f16 or bf16, or of f32
};
template <typename Codec, typename S>
METAL_FUNC UnitData<Codec, S> load_unit_data(constant UnitMatrix& m, device const uint* codes,
                                             device const uchar* scales, uint block, uint unit, uint lane) {
  UnitData<Codec, S> d;
  d.codes = load_codes<Codec::kBits>(codes, ulong(block) * m.units + unit, lane);
  const uint row = tile_row(lane);
  if (!S::kGeneral) {
    if (S::kGroup == 16) {
      const uint4 v = ((device const uint4*)scales)[(block * m.units + unit) * 8 + row];
      for (uint part = 0; part < S::kParts; ++part) d.scales[part] = v[part & 3];
    } else if (S::kGroup == 32) {
      const uint2 v = ((device const uint2*)scales)[(block * m.units + unit) * 8 + row];
      for (uint part = 0; part < S::kParts; ++part) d.scales[part] = v[part & 1];
    } else {
      const uint group = min(unit >> (m.group_shift - 6), m.groups - 1);
      d.scales[0] = ((device const uint*)scales)[(block * m.groups + group) * 8 + row];
    }
    return d;
  }
  for (uint part = 0; part < S::kParts; ++part) {
    const ulong place = scale_place(m, block, unit, part, row);
    if (m.scale_type == codecs::kF32Scale) {
      const uint2 v = *(device const uint2*)(scales + place * 4);
      d.scales[2 * part] = v.x;
      d.scales[(2 * part + 1) % S::kWords] = v.y;
    } else {
      d.scales[2 * part % S::kWords] = *(device const uint*)(scales + place * 2);
    }
  }
  return d;
}
// Scales of a part, with the matrix's and the codec's factors.
template <typename Codec, typename S>
METAL_FUNC float2 part_scales(constant UnitMatrix& m, const thread UnitData<Codec, S>& d, uint part) {
  float2 s;
  if (!S::kGeneral) {
    s = narrow_scales(m.scale_type, d.scales[part]);
  } else if (m.scale_type == codecs::kF32Scale) {
    s = float2(as_type<float>(d.scales[2 * part % S::kWords]), as_type<float>(d.scales[(2 * part + 1) % S::kWords]));
  } else {
    s = narrow_scales(m.scale_type, d.scales[2 * part % S::kWords]);
  }
  return s * (m.multiplier * Codec::kFactor);
}
