// Experts of few tokens: each assignment's products by itself, with no grouping, so that a
// token's experts take two launches. In f32 throughout, therefore the exact mode's kernels too.
#include "common/experts_params.h"
#include "common/block_product.h"
#include "common/gated.h"

// A block's sums with one input, by all simdgroups; after it `all` may be read.
template <typename Blocks>
METAL_FUNC void multiply_block(threadgroup float2* all, Blocks blocks, ulong block, device const float* x,
                               constant DecodeParams& p, uint simdgroup, uint simdgroups, uint lane) {
  float2 sums = float2(0.0f);
#pragma clang loop unroll(disable)
  for (uint unit = simdgroup; unit < p.units; unit += simdgroups) sums += blocks.product(block, unit, x, p.cols, lane);
  all[32 * simdgroup + lane] = sums;
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

constant constexpr uint kDecodeSimdgroups = 4;

// out[assignment][row] = the gated product of gate x and up x, with their biases, [experts][rows]. Grid: (blocks,
// assignments).
template <typename Blocks>
METAL_FUNC void gate_up(Blocks gate, Blocks up, device const float* gate_factors, device const float* up_factors,
                        device const float* gate_biases, device const float* up_biases, device const float* x, device const int* ids, device const int* slots, device float* out,
                        constant DecodeParams& p, threadgroup float2* all, uint2 group, uint simdgroup, uint simdgroups,
                        uint lane) {
  const int id = ids[group.y];
  const int slot = id < 0 ? -1 : slots[id];
  if (slot < 0) return;
  const ulong block = ulong(slot) * p.expert_blocks + group.x;
  device const float* in = x + ulong(group.y / p.chosen) * p.cols;
  multiply_block(all, gate, block, in, p, simdgroup, simdgroups, lane);
  multiply_block(all + 32 * kDecodeSimdgroups, up, block, in, p, simdgroup, simdgroups, lane);
  const uint row = group.x * kTileRows + lane;
  if (simdgroup != 0 || lane >= 16 || row >= p.rows) return;
  float g = block_row_sum(all, simdgroups, lane) * gate_factors[slot];
  float u = block_row_sum(all + 32 * kDecodeSimdgroups, simdgroups, lane) * up_factors[slot];
  if (p.biases != 0) {
    g += gate_biases[ulong(id) * p.rows + row];
    u += up_biases[ulong(id) * p.rows + row];
  }
  out[ulong(group.y) * p.rows + row] = gated_product(p.gate, g, u);
}

// y[token][row] = sum over its experts of these matrices, in order, of weight * (down act + bias) (+ y).
// Grid: (blocks, tokens).
template <typename Blocks>
METAL_FUNC void down(Blocks blocks, device const float* factors, device const float* biases, device const float* act, device const int* ids,
                     device const int* slots, device const float* weights, device float* y, constant DecodeParams& p,
                     threadgroup float2* all, uint2 group, uint simdgroup, uint simdgroups, uint lane) {
  const uint row = group.x * kTileRows + lane;
  const bool writes = simdgroup == 0 && lane < 16 && row < p.rows;
  device float* const to = y + ulong(group.y) * p.rows + row;
  float sum = writes && p.accumulate != 0 ? *to : 0.0f;
  for (uint j = 0; j < p.chosen; ++j) {
    const uint assignment = group.y * p.chosen + j;
    const int id = ids[assignment];
    const int slot = id < 0 ? -1 : slots[id];
    if (slot < 0) continue;
    multiply_block(all, blocks, ulong(slot) * p.expert_blocks + group.x, act + ulong(assignment) * p.cols, p, simdgroup,
                   simdgroups, lane);
    if (writes) {
      const float product = block_row_sum(all, simdgroups, lane) * factors[slot];
      sum = fma(weights[assignment], p.biases != 0 ? product + biases[ulong(id) * p.rows + row] : product, sum);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  if (writes) *to = sum;
}

template <typename Codec>
[[kernel, max_total_threads_per_threadgroup(128)]] void moe_decode_gate_up(
    device const uchar* gate_codes [[buffer(0)]], device const uchar* gate_scales [[buffer(1)]],
    device const float* gate_minima [[buffer(2)]], device const uchar* up_codes [[buffer(3)]],
    device const uchar* up_scales [[buffer(4)]], device const float* up_minima [[buffer(5)]],
    device const float* gate_factors [[buffer(6)]], device const float* up_factors [[buffer(7)]],
    device const float* x [[buffer(8)]], device const int* ids [[buffer(9)]], device const int* slots [[buffer(10)]],
    device float* out [[buffer(11)]], constant TiledMatrix& m [[buffer(12)]], constant DecodeParams& p [[buffer(13)]],
    device const float* gate_biases [[buffer(14)]], device const float* up_biases [[buffer(15)]],
    uint2 group [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float2 all[2 * 32 * kDecodeSimdgroups];
  const QuantizedBlocks<Codec> gate = {gate_codes, gate_scales, gate_minima, m};
  const QuantizedBlocks<Codec> up = {up_codes, up_scales, up_minima, m};
  gate_up(gate, up, gate_factors, up_factors, gate_biases, up_biases, x, ids, slots, out, p, all, group, simdgroup, simdgroups, lane);
}

template <typename Codec>
[[kernel, max_total_threads_per_threadgroup(128)]] void moe_decode_down(
    device const uchar* codes [[buffer(0)]], device const uchar* scales [[buffer(1)]],
    device const float* minima [[buffer(2)]], device const float* factors [[buffer(3)]],
    device const float* act [[buffer(4)]], device const int* ids [[buffer(5)]], device const int* slots [[buffer(6)]],
    device const float* weights [[buffer(7)]], device float* y [[buffer(8)]], constant TiledMatrix& m [[buffer(9)]],
    constant DecodeParams& p [[buffer(10)]], device const float* biases [[buffer(11)]], uint2 group [[threadgroup_position_in_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint simdgroups [[simdgroups_per_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float2 all[32 * kDecodeSimdgroups];
  const QuantizedBlocks<Codec> blocks = {codes, scales, minima, m};
  down(blocks, factors, biases, act, ids, slots, weights, y, p, all, group, simdgroup, simdgroups, lane);
}

// Unquantized experts.
template <typename Blocks>
struct DenseOf;
template <typename T>
struct DenseOf<DenseBlocks<T>> {
  static METAL_FUNC DenseBlocks<T> make(device const uchar* values, uint units) { return {values, units}; }
};
template <>
struct DenseOf<FloatBlocks> {
  static METAL_FUNC FloatBlocks make(device const uchar* values, uint) { return {values}; }
};
template <typename Blocks>
[[kernel, max_total_threads_per_threadgroup(128)]] void moe_decode_dense_gate_up(
    device const uchar* gate_values [[buffer(0)]], device const uchar* up_values [[buffer(1)]],
    device const float* factors [[buffer(2)]], device const float* x [[buffer(3)]], device const int* ids [[buffer(4)]],
    device const int* slots [[buffer(5)]], device float* out [[buffer(6)]], constant DecodeParams& p [[buffer(7)]],
    device const float* gate_biases [[buffer(8)]], device const float* up_biases [[buffer(9)]],
    uint2 group [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float2 all[2 * 32 * kDecodeSimdgroups];
  gate_up(DenseOf<Blocks>::make(gate_values, p.units), DenseOf<Blocks>::make(up_values, p.units), factors, factors,
          gate_biases, up_biases, x, ids, slots, out, p, all, group, simdgroup, simdgroups, lane);
}
template <typename Blocks>
[[kernel, max_total_threads_per_threadgroup(128)]] void moe_decode_dense_down(
    device const uchar* values [[buffer(0)]], device const float* factors [[buffer(1)]],
    device const float* act [[buffer(2)]], device const int* ids [[buffer(3)]], device const int* slots [[buffer(4)]],
    device const float* weights [[buffer(5)]], device float* y [[buffer(6)]], constant DecodeParams& p [[buffer(7)]],
    device const float* biases [[buffer(8)]],
    uint2 group [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint simdgroups [[simdgroups_per_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float2 all[32 * kDecodeSimdgroups];
  down(DenseOf<Blocks>::make(values, p.units), factors, biases, act, ids, slots, weights, y, p, all, group, simdgroup,
       simdgroups, lane);
}

#define MM_DECODE(name, Codec)                                                                                        \
  template [[host_name("moe_decode_gate_up_" #name)]] [[kernel, max_total_threads_per_threadgroup(128)]]              \
  void moe_decode_gate_up<Codec>(device const uchar*, device const uchar*, device const float*, device const uchar*,  \
                                 device const uchar*, device const float*, device const float*, device const float*,  \
                                 device const float*, device const int*, device const int*, device float*,            \
                                 constant TiledMatrix&, constant DecodeParams&, device const float*,                  \
                                 device const float*, uint2, uint, uint, uint);                                       \
  template [[host_name("moe_decode_down_" #name)]] [[kernel, max_total_threads_per_threadgroup(128)]]                 \
  void moe_decode_down<Codec>(device const uchar*, device const uchar*, device const float*, device const float*,     \
                              device const float*, device const int*, device const int*, device const float*,         \
                              device float*, constant TiledMatrix&, constant DecodeParams&, device const float*,      \
                              uint2, uint, uint, uint);
MM_FOR_EACH_CODEC(MM_DECODE)
#define MM_DECODE_DENSE(name, Blocks)                                                                                 \
  template [[host_name("moe_decode_gate_up_" #name)]] [[kernel, max_total_threads_per_threadgroup(128)]]              \
  void moe_decode_dense_gate_up<Blocks>(device const uchar*, device const uchar*, device const float*,                \
                                        device const float*, device const int*, device const int*, device float*,     \
                                        constant DecodeParams&, device const float*, device const float*, uint2,      \
                                        uint, uint, uint);                                                            \
  template [[host_name("moe_decode_down_" #name)]] [[kernel, max_total_threads_per_threadgroup(128)]]                 \
  void moe_decode_dense_down<Blocks>(device const uchar*, device const float*, device const float*,                   \
                                     device const int*, device const int*, device const float*, device float*,        \
                                     constant DecodeParams&, device const float*, uint2, uint, uint, uint);
MM_DECODE_DENSE(half, DenseBlocks<half>)
MM_DECODE_DENSE(bfloat, DenseBlocks<bfloat>)
MM_DECODE_DENSE(float, FloatBlocks)
