// Hadamard transforms of rows in blocks: out = H in / sqrt(block), with
// H = Sylvester's matrix of order 2^n times (Kronecker) one of order 1, 12, 20 or 28.
// Those are Paley's (1933): of the quadratic residues modulo 11 and 19 (his first
// construction) and 13 (his second). Butterflies in f32.
#include <metal_stdlib>
#include "common/hadamard_params.h"

using namespace metal;

// Bit c of row r: whether H[r][c] is -1.
constant constexpr uint kSigns12[12] = {0x000, 0x475, 0x8E9, 0x1D3, 0x3A5, 0x749,
                                        0xE91, 0xD23, 0xA47, 0x48F, 0x91D, 0x23B};
constant constexpr uint kSigns20[20] = {0x00000, 0x615E5, 0xC2BC9, 0x85793, 0x0AF27, 0x15E4D, 0x2BC99,
                                        0x57931, 0xAF261, 0x5E4C3, 0xBC985, 0x7930B, 0xF2615, 0xE4C2B,
                                        0xC9857, 0x930AF, 0x2615F, 0x4C2BD, 0x98579, 0x30AF3};
constant constexpr uint kSigns28[28] = {0x0000002, 0xAAAAAAB, 0x30FF0C8, 0x9A55A6E, 0xC3FC320, 0x69569BA, 0x0FF0C8C,
                                        0xA55A6E6, 0x3FC3230, 0x9569B9A, 0xFF0C8C0, 0x55A6E6A, 0xFC3230C, 0x569B9A6,
                                        0xF0C8C3C, 0x5A6E696, 0xC3230FC, 0x69B9A56, 0x0C8C3FC, 0xA6E6956, 0x3230FF0,
                                        0x9B9A55A, 0xC8C3FC0, 0x6E6956A, 0x230FF0C, 0xB9A55A6, 0x8C3FC30, 0xE69569A};

METAL_FUNC bool is_minus(uint order, uint row, uint column) {
  const uint signs = order == 12 ? kSigns12[row] : order == 20 ? kSigns20[row] : kSigns28[row];
  return (signs >> column & 1u) != 0;
}

constant constexpr uint kMaxBlock = 4096;

// One threadgroup a block: grid (blocks of a row, rows). Input and output may be one buffer.
template <typename T>
[[kernel, max_total_threads_per_threadgroup(256)]] void hadamard(
    device const T* in [[buffer(0)]], device T* out [[buffer(1)]], constant HadamardParams& p [[buffer(2)]],
    uint2 group [[threadgroup_position_in_grid]], uint index [[thread_index_in_threadgroup]],
    uint2 threads_2d [[threads_per_threadgroup]]) {
  threadgroup float values[kMaxBlock];
  const uint threads = threads_2d.x;
  const ulong first_of_block = ulong(group.y) * p.cols + group.x * p.block;
  for (uint i = index; i < p.block; i += threads) values[i] = float(in[first_of_block + i]);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  // Pairs that lie `distance` apart: those of the order that is a power of two.
  for (uint distance = p.order; distance < p.block; distance *= 2) {
    for (uint i = index; i < p.block / 2; i += threads) {
      const uint at = i / distance * 2 * distance + i % distance;
      const float a = values[at], b = values[at + distance];
      values[at] = a + b;
      values[at + distance] = a - b;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  const float scale = 1.0f / precise::sqrt(float(p.block));
  for (uint i = index; i < p.block; i += threads) {
    float sum = values[i];
    if (p.order > 1) {
      const uint first = i / p.order * p.order, row = i - first;
      sum = 0.0f;
      for (uint c = 0; c < p.order; ++c) {
        const float v = values[first + c];
        sum += is_minus(p.order, p.inverse != 0 ? c : row, p.inverse != 0 ? row : c) ? -v : v;
      }
    }
    out[first_of_block + i] = T(sum * scale);
  }
}
template [[host_name("hadamard_float")]] [[kernel, max_total_threads_per_threadgroup(256)]]
void hadamard<float>(device const float*, device float*, constant HadamardParams&, uint2, uint, uint2);
template [[host_name("hadamard_half")]] [[kernel, max_total_threads_per_threadgroup(256)]]
void hadamard<half>(device const half*, device half*, constant HadamardParams&, uint2, uint, uint2);
template [[host_name("hadamard_bfloat")]] [[kernel, max_total_threads_per_threadgroup(256)]]
void hadamard<bfloat>(device const bfloat*, device bfloat*, constant HadamardParams&, uint2, uint, uint2);
