// The products of experts with the tokens that chose them (shaders/moe_dispatch.metal groups
// them): a result row an assignment. Experts of one format lie one after another; those of
// another are left to another launch. Every result is made by one threadgroup, in order.
#include "common/experts_params.h"
#include "common/grouped_gemm.h"
#include "common/unroll.h"

METAL_FUNC GroupRows expert_rows(constant ExpertParams& e, device const int* offsets, device const int* order,
                                 uint expert) {
  GroupRows rows;
  rows.first = uint(offsets[expert]);
  rows.step = 1;
  rows.count = uint(offsets[expert + 1]) - rows.first;
  rows.order = e.by_token != 0 ? order : nullptr;
  rows.chosen = e.chosen;
  return rows;
}

// slots[expert]: which of the matrices, -1: none of these. factors: one a matrix. Grid: (row tiles,
// tiles of tokens made side by side, experts).
template <typename Codec, typename S, int kColumns>
[[kernel, max_total_threads_per_threadgroup(128)]] void moe_expert_gemm(
    device const uchar* codes [[buffer(0)]], device const uchar* scales [[buffer(1)]],
    device const float* minima [[buffer(2)]], device const half* x [[buffer(3)]], device uchar* y [[buffer(4)]],
    device const float* x_scales [[buffer(5)]], device const int* slots [[buffer(6)]],
    device const float* factors [[buffer(7)]], device const int* offsets [[buffer(8)]],
    device const int* order [[buffer(9)]], constant TiledMatrix& m [[buffer(10)]],
    constant LinearParams& p [[buffer(11)]], constant ExpertParams& e [[buffer(12)]],
    threadgroup uchar* tiles [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint3 groups [[threadgroups_per_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  MM_WITHIN_REGISTERS((QuantizedWeights<Codec, S>::registers(kColumns)));
  threadgroup uint4 memory[stage_pieces(kColumns)];
  threadgroup half* const stage = (threadgroup half*)memory;
  const int slot = slots[group.z];
  if (slot < 0) return;
  const GroupRows rows = expert_rows(e, offsets, order, group.z);
  const TileStage tile_stage = {tiles + simdgroup * kTileStageBytes, lane};
  const uint block = min(group.x * kGemmSimdgroups + simdgroup, e.expert_blocks - 1);
  const auto weights =
      quantized_weights<Codec, S>(codes, scales, minima, m, ulong(slot) * e.expert_blocks + block);
  const float factor = factors[slot] * matrix_factor<Codec>();
  for (uint first = group.y * 8 * kColumns; first < rows.count; first += groups.y * 8 * kColumns) {
    TileSums sums[kColumns];
    MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c) sums[c] = no_sums();
    multiply_rows<kColumns>(sums, weights, x, rows, first, m.units, p.x_stride, stage, simdgroup * 32 + lane, tile_stage);
    put_rows<kColumns>((threadgroup float*)stage, sums, rows, first, group.x, e.rows, factor, x_scales, y, p, simdgroup,
                       lane);
  }
}

// f16 and bf16 experts.
template <typename T, int kColumns>
[[kernel, max_total_threads_per_threadgroup(128)]] void moe_expert_dense(
    device const uint4* values [[buffer(0)]], device const T* x [[buffer(1)]], device uchar* y [[buffer(2)]],
    device const float* x_scales [[buffer(3)]], device const int* slots [[buffer(4)]],
    device const int* offsets [[buffer(5)]], device const int* order [[buffer(6)]], constant uint& units [[buffer(7)]],
    constant LinearParams& p [[buffer(8)]], constant ExpertParams& e [[buffer(9)]],
    threadgroup uchar* tiles [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint3 groups [[threadgroups_per_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  MM_WITHIN_REGISTERS(DenseWeights<T>::registers(kColumns));
  threadgroup uint4 memory[stage_pieces(kColumns)];
  threadgroup T* const stage = (threadgroup T*)memory;
  const int slot = slots[group.z];
  if (slot < 0) return;
  const GroupRows rows = expert_rows(e, offsets, order, group.z);
  const TileStage tile_stage = {tiles + simdgroup * kTileStageBytes, lane};
  const uint block = min(group.x * kGemmSimdgroups + simdgroup, e.expert_blocks - 1);
  const DenseWeights<T> weights = {values + (ulong(slot) * e.expert_blocks + block) * units * (kUnitTiles * 32)};
  for (uint first = group.y * 8 * kColumns; first < rows.count; first += groups.y * 8 * kColumns) {
    TileSums sums[kColumns];
    MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c) sums[c] = no_sums();
    multiply_rows<kColumns>(sums, weights, x, rows, first, units, p.x_stride, stage, simdgroup * 32 + lane, tile_stage);
    put_rows<kColumns>((threadgroup float*)stage, sums, rows, first, group.x, e.rows, 1.0f, x_scales, y, p, simdgroup,
                       lane);
  }
}

#define MM_EXPERT_FOR(name, Codec, group, general, suffix, columns)                                                 \
  template [[host_name("moe_expert_gemm_" #name suffix "_" #columns)]]                                              \
  [[kernel, max_total_threads_per_threadgroup(128)]] void moe_expert_gemm<Codec, Scaling<group, general>, columns>( \
      device const uchar*, device const uchar*, device const float*, device const half*, device uchar*,             \
      device const float*, device const int*, device const float*, device const int*, device const int*,            \
      constant TiledMatrix&, constant LinearParams&, constant ExpertParams&, threadgroup uchar*, uint3, uint3, uint, \
      uint);
// For few and for many tokens an expert.
#define MM_EXPERT(name, Codec, group, general, suffix)     \
  MM_EXPERT_FOR(name, Codec, group, general, suffix, 1)    \
  MM_EXPERT_FOR(name, Codec, group, general, suffix, 4)
#define MM_EXPERT_GENERAL(name, Codec)      \
  MM_EXPERT(name, Codec, 32, true, "")      \
  MM_EXPERT(name, Codec, 16, true, "_by16")
MM_FOR_EACH_CODEC(MM_EXPERT_GENERAL)
MM_EXPERT(e2m1, codecs::E2m1, 16, false, "_g16")
MM_EXPERT(e2m1, codecs::E2m1, 32, false, "_g32")
MM_EXPERT(e2m1, codecs::E2m1, 64, false, "_g64")
MM_EXPERT(int4, codecs::Integer<4>, 32, false, "_g32")
MM_EXPERT(int4, codecs::Integer<4>, 64, false, "_g64")
MM_EXPERT(int8, codecs::Integer<8>, 32, false, "_g32")
MM_EXPERT(e4m3, codecs::E4m3, 32, false, "_g32")

#define MM_EXPERT_DENSE(T, columns)                                                                                  \
  template [[host_name("moe_expert_" #T "_" #columns)]] [[kernel, max_total_threads_per_threadgroup(128)]]           \
  void moe_expert_dense<T, columns>(device const uint4*, device const T*, device uchar*, device const float*,        \
                                    device const int*, device const int*, device const int*, constant uint&,         \
                                    constant LinearParams&, constant ExpertParams&, threadgroup uchar*, uint3, uint3, \
                                    uint, uint);
MM_EXPERT_DENSE(half, 1)
MM_EXPERT_DENSE(half, 4)
MM_EXPERT_DENSE(bfloat, 1)
MM_EXPERT_DENSE(bfloat, 4)
