// Several products at once, each with weights, scales and rows of its own: strided, as heads
// lie (row r of item i is row r * items + i of activations and result), or grouped one after
// another (item i has rows starts[i] to starts[i + 1]).
#include "common/linear_params.h"
#include "common/block_product.h"
#include "common/grouped_gemm.h"
#include "common/unroll.h"

METAL_FUNC GroupRows item_rows(constant BatchParams& b, constant LinearParams& p, device const int* starts, uint item) {
  GroupRows rows;
  rows.first = b.grouped != 0 ? uint(starts[item]) : item;
  rows.step = b.grouped != 0 ? 1 : b.items;
  rows.count = b.grouped != 0 ? uint(starts[item + 1] - starts[item]) : p.tokens;
  rows.order = nullptr;
  rows.chosen = 1;
  return rows;
}

// Grid: (row tiles, tiles of tokens made side by side, items). factors: one an item.
template <typename Codec, typename S, int kColumns>
[[kernel, max_total_threads_per_threadgroup(128)]] void batched_gemm(
    device const uchar* codes [[buffer(0)]], device const uchar* scales [[buffer(1)]],
    device const float* minima [[buffer(2)]], device const half* x [[buffer(3)]], device uchar* y [[buffer(4)]],
    device const float* x_scales [[buffer(5)]], device const float* factors [[buffer(6)]],
    device const int* starts [[buffer(7)]], constant TiledMatrix& m [[buffer(8)]],
    constant LinearParams& p [[buffer(9)]], constant BatchParams& b [[buffer(10)]],
    threadgroup uchar* tiles [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint3 groups [[threadgroups_per_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  MM_WITHIN_REGISTERS((QuantizedWeights<Codec, S>::registers(kColumns)));
  threadgroup uint4 memory[stage_pieces(kColumns)];
  threadgroup half* const stage = (threadgroup half*)memory;
  const GroupRows rows = item_rows(b, p, starts, group.z);
  const TileStage tile_stage = {tiles + simdgroup * kTileStageBytes, lane};
  const uint block = min(group.x * kGemmSimdgroups + simdgroup, b.item_blocks - 1);
  const auto weights = quantized_weights<Codec, S>(codes, scales, minima, m, ulong(group.z) * b.item_blocks + block);
  for (uint first = group.y * 8 * kColumns; first < rows.count; first += groups.y * 8 * kColumns) {
    TileSums sums[kColumns];
    MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c) sums[c] = no_sums();
    multiply_rows<kColumns>(sums, weights, x, rows, first, b.units, p.x_stride, stage, simdgroup * 32 + lane, tile_stage);
    put_rows<kColumns>((threadgroup float*)stage, sums, rows, first, group.x, b.rows,
                       factors[group.z] * matrix_factor<Codec>(), x_scales, y, p, simdgroup, lane);
  }
}

template <typename T, int kColumns>
[[kernel, max_total_threads_per_threadgroup(128)]] void batched_dense(
    device const uint4* values [[buffer(0)]], device const T* x [[buffer(1)]], device uchar* y [[buffer(2)]],
    device const float* x_scales [[buffer(3)]], device const int* starts [[buffer(4)]],
    constant LinearParams& p [[buffer(5)]], constant BatchParams& b [[buffer(6)]],
    threadgroup uchar* tiles [[threadgroup(0)]], uint3 group [[threadgroup_position_in_grid]],
    uint3 groups [[threadgroups_per_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  MM_WITHIN_REGISTERS(DenseWeights<T>::registers(kColumns));
  threadgroup uint4 memory[stage_pieces(kColumns)];
  threadgroup T* const stage = (threadgroup T*)memory;
  const GroupRows rows = item_rows(b, p, starts, group.z);
  const TileStage tile_stage = {tiles + simdgroup * kTileStageBytes, lane};
  const uint block = min(group.x * kGemmSimdgroups + simdgroup, b.item_blocks - 1);
  const DenseWeights<T> weights = {values + (ulong(group.z) * b.item_blocks + block) * b.units * (kUnitTiles * 32)};
  for (uint first = group.y * 8 * kColumns; first < rows.count; first += groups.y * 8 * kColumns) {
    TileSums sums[kColumns];
    MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c) sums[c] = no_sums();
    multiply_rows<kColumns>(sums, weights, x, rows, first, b.units, p.x_stride, stage, simdgroup * 32 + lane, tile_stage);
    put_rows<kColumns>((threadgroup float*)stage, sums, rows, first, group.x, b.rows, 1.0f, x_scales, y, p, simdgroup,
                       lane);
  }
}

// In f32, activations as they are: a simdgroup takes 16 rows and the rows of an item in turn.
// Grid: (blocks, rows made side by side, items).
template <typename Blocks>
METAL_FUNC void exact_rows(Blocks blocks, device const float* x, device uchar* y, float factor, GroupRows rows,
                           constant LinearParams& p, constant BatchParams& b, threadgroup float2* all, uint3 group,
                           uint side, uint lane) {
  const ulong block = ulong(group.z) * b.item_blocks + group.x;
  for (uint i = group.y; i < rows.count; i += side) {
    float2 sums = float2(0.0f);
    device const float* in = x + ulong(rows.result(i)) * p.x_stride;
#pragma clang loop unroll(disable)
    for (uint unit = 0; unit < b.units; ++unit) sums += blocks.product(block, unit, in, b.cols, lane);
    all[lane] = sums;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const uint row = group.x * kTileRows + lane;
    if (lane < 16 && row < b.rows)
      put_result(y, p, rows.result(i), row, block_row_sum(all, 1, lane) * factor, nullptr);
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}
template <typename Codec>
[[kernel, max_total_threads_per_threadgroup(32)]] void batched_exact(
    device const uchar* codes [[buffer(0)]], device const uchar* scales [[buffer(1)]],
    device const float* minima [[buffer(2)]], device const float* x [[buffer(3)]], device uchar* y [[buffer(4)]],
    device const float* factors [[buffer(5)]], device const int* starts [[buffer(6)]],
    constant TiledMatrix& m [[buffer(7)]], constant LinearParams& p [[buffer(8)]], constant BatchParams& b [[buffer(9)]],
    uint3 group [[threadgroup_position_in_grid]], uint3 groups [[threadgroups_per_grid]],
    uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float2 all[32];
  const QuantizedBlocks<Codec> blocks = {codes, scales, minima, m};
  exact_rows(blocks, x, y, factors[group.z], item_rows(b, p, starts, group.z), p, b, all, group, groups.y, lane);
}
template <typename T>
[[kernel, max_total_threads_per_threadgroup(32)]] void batched_exact_dense(
    device const uchar* values [[buffer(0)]], device const float* x [[buffer(1)]], device uchar* y [[buffer(2)]],
    device const int* starts [[buffer(3)]], constant LinearParams& p [[buffer(4)]],
    constant BatchParams& b [[buffer(5)]], uint3 group [[threadgroup_position_in_grid]],
    uint3 groups [[threadgroups_per_grid]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float2 all[32];
  const DenseBlocks<T> blocks = {values, b.units};
  exact_rows(blocks, x, y, 1.0f, item_rows(b, p, starts, group.z), p, b, all, group, groups.y, lane);
}
[[kernel, max_total_threads_per_threadgroup(32)]] void batched_exact_float(
    device const uchar* values [[buffer(0)]], device const float* x [[buffer(1)]], device uchar* y [[buffer(2)]],
    device const int* starts [[buffer(3)]], constant LinearParams& p [[buffer(4)]],
    constant BatchParams& b [[buffer(5)]], uint3 group [[threadgroup_position_in_grid]],
    uint3 groups [[threadgroups_per_grid]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float2 all[32];
  const FloatBlocks blocks = {values};
  exact_rows(blocks, x, y, 1.0f, item_rows(b, p, starts, group.z), p, b, all, group, groups.y, lane);
}

#define MM_BATCHED_FOR(name, Codec, group, general, suffix, columns)                                               \
  template [[host_name("batched_gemm_" #name suffix "_" #columns)]]                                                \
  [[kernel, max_total_threads_per_threadgroup(128)]] void batched_gemm<Codec, Scaling<group, general>, columns>(   \
      device const uchar*, device const uchar*, device const float*, device const half*, device uchar*,            \
      device const float*, device const float*, device const int*, constant TiledMatrix&, constant LinearParams&,   \
      constant BatchParams&, threadgroup uchar*, uint3, uint3, uint, uint);
#define MM_BATCHED_GROUP(name, Codec, group, suffix)      \
  MM_BATCHED_FOR(name, Codec, group, true, suffix, 1)     \
  MM_BATCHED_FOR(name, Codec, group, true, suffix, 4)
#define MM_BATCHED(name, Codec)                                                                                     \
  MM_BATCHED_GROUP(name, Codec, 32, "")                                                                             \
  MM_BATCHED_GROUP(name, Codec, 16, "_by16")                                                                        \
  template [[host_name("batched_exact_" #name)]] [[kernel, max_total_threads_per_threadgroup(32)]]                  \
  void batched_exact<Codec>(device const uchar*, device const uchar*, device const float*, device const float*,     \
                            device uchar*, device const float*, device const int*, constant TiledMatrix&,            \
                            constant LinearParams&, constant BatchParams&, uint3, uint3, uint);
MM_FOR_EACH_CODEC(MM_BATCHED)
#define MM_BATCHED_DENSE_FOR(T, columns)                                                                             \
  template [[host_name("batched_gemm_" #T "_" #columns)]] [[kernel, max_total_threads_per_threadgroup(128)]]         \
  void batched_dense<T, columns>(device const uint4*, device const T*, device uchar*, device const float*,           \
                                 device const int*, constant LinearParams&, constant BatchParams&, threadgroup uchar*, \
                                 uint3, uint3, uint, uint);
#define MM_BATCHED_DENSE(T)                                                                                          \
  MM_BATCHED_DENSE_FOR(T, 1)                                                                                         \
  MM_BATCHED_DENSE_FOR(T, 4)                                                                                         \
  template [[host_name("batched_exact_" #T)]] [[kernel, max_total_threads_per_threadgroup(32)]]                      \
  void batched_exact_dense<T>(device const uchar*, device const float*, device uchar*, device const int*,            \
                              constant LinearParams&, constant BatchParams&, uint3, uint3, uint);
MM_BATCHED_DENSE(half)
MM_BATCHED_DENSE(bfloat)
