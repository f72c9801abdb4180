// An expert that sees every token, and any gated feed-forward part: gate and up in one pass
// over the activations, activated in registers; and its result added to the routed sum.
#include "common/grouped_gemm.h"
#include "common/unroll.h"

// Gate and up of the same rows.
template <typename Weights>
struct GateUp {
  typedef typename Weights::Element Element;
  Weights gate;
  Weights up;
  template <int kColumns>
  METAL_FUNC void add(thread TileSums* sums, threadgroup const Element* stage, uint unit, TileStage tiles) const {
    gate.template add<kColumns>(sums, stage, unit, tiles);
    up.template add<kColumns>(sums + kColumns, stage, unit, tiles);
  }
};

// y[token][row] = silu(gate x) * (up x): a tile of rows and tokens.
template <int kColumns, typename Weights>
METAL_FUNC void gate_up_tile(GateUp<Weights> weights, device const typename Weights::Element* x,
                             device const float* x_scales, device uchar* y, constant LinearParams& p, uint rows,
                             uint units, float gate_factor, float up_factor,
                             threadgroup typename Weights::Element* stage, TileStage tiles, uint2 group, uint simdgroup) {
  const GroupRows all = {0, 1, p.tokens, nullptr, 1};
  const uint first = group.y * 8 * kColumns;
  TileSums sums[2 * kColumns];
  MM_UNROLL for (uint c = 0; c < uint(2 * kColumns); ++c) sums[c] = no_sums();
  multiply_rows<kColumns>(sums, weights, x, all, first, units, p.x_stride, stage, simdgroup * 32 + tiles.lane, tiles);
  MM_UNROLL for (uint c = 0; c < uint(kColumns); ++c) {
    MM_UNROLL for (uint i = 0; i < 4; ++i) {
      const uint token = first + 8 * c + tile_column(tiles.lane) + i % 2;
      const float scale = token < p.tokens ? x_scales[token] : 0.0f;
      const float up = sums[kColumns + c].e[i] * up_factor * scale;
      sums[c].e[i] = activate(kSilu, sums[c].e[i] * gate_factor * scale) * up;
    }
  }
  put_rows<kColumns>((threadgroup float*)stage, sums, all, first, group.x, rows, 1.0f, nullptr, y, p, simdgroup,
                     tiles.lane);
}

// Grid: (row tiles, token tiles). Both matrices have the shape and kind that m tells; factors: of gate, of up.
template <typename Codec, typename S, int kColumns>
[[kernel, max_total_threads_per_threadgroup(128)]] void moe_shared_gate_up(
    device const uchar* gate_codes [[buffer(0)]], device const uchar* gate_scales [[buffer(1)]],
    device const float* gate_minima [[buffer(2)]], device const uchar* up_codes [[buffer(3)]],
    device const uchar* up_scales [[buffer(4)]], device const float* up_minima [[buffer(5)]],
    device const half* x [[buffer(6)]], device const float* x_scales [[buffer(7)]], device uchar* y [[buffer(8)]],
    constant TiledMatrix& m [[buffer(9)]], constant LinearParams& p [[buffer(10)]],
    constant float2& factors [[buffer(11)]], threadgroup uchar* tiles [[threadgroup(0)]],
    uint2 group [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  MM_WITHIN_REGISTERS((QuantizedWeights<Codec, S>::registers(2 * kColumns)));
  threadgroup uint4 memory[stage_pieces(kColumns)];
  threadgroup half* const stage = (threadgroup half*)memory;
  const TileStage tile_stage = {tiles + simdgroup * kTileStageBytes, lane};
  const uint block = min(group.x * kGemmSimdgroups + simdgroup, (m.rows + kTileRows - 1) / kTileRows - 1);
  const GateUp<QuantizedWeights<Codec, S>> weights = {
      quantized_weights<Codec, S>(gate_codes, gate_scales, gate_minima, m, block),
      quantized_weights<Codec, S>(up_codes, up_scales, up_minima, m, block)};
  gate_up_tile<kColumns>(weights, x, x_scales, y, p, m.rows, m.units, factors.x * matrix_factor<Codec>(),
                         factors.y * matrix_factor<Codec>(), stage, tile_stage, group, simdgroup);
}

template <typename T, int kColumns>
[[kernel, max_total_threads_per_threadgroup(128)]] void moe_shared_dense_gate_up(
    device const uint4* gate [[buffer(0)]], device const uint4* up [[buffer(1)]], device const T* x [[buffer(2)]],
    device const float* x_scales [[buffer(3)]], device uchar* y [[buffer(4)]], constant uint& rows [[buffer(5)]],
    constant uint& units [[buffer(6)]], constant LinearParams& p [[buffer(7)]],
    threadgroup uchar* tiles [[threadgroup(0)]], uint2 group [[threadgroup_position_in_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  MM_WITHIN_REGISTERS(DenseWeights<T>::registers(2 * kColumns));
  threadgroup uint4 memory[stage_pieces(kColumns)];
  threadgroup T* const stage = (threadgroup T*)memory;
  const TileStage tile_stage = {tiles + simdgroup * kTileStageBytes, lane};
  const uint block = min(group.x * kGemmSimdgroups + simdgroup, (rows + kTileRows - 1) / kTileRows - 1);
  const ulong at = ulong(block) * units * (kUnitTiles * 32);
  const GateUp<DenseWeights<T>> weights = {{gate + at}, {up + at}};
  gate_up_tile<kColumns>(weights, x, x_scales, y, p, rows, units, 1.0f, 1.0f, stage, tile_stage, group, simdgroup);
}

// y += sigmoid(gate[token]) * x, the gate only where there is one. Grid: (width, tokens).
[[kernel]] void moe_shared_add(device const float* x [[buffer(0)]], device const float* gate [[buffer(1)]],
                               device float* y [[buffer(2)]], constant uint& width [[buffer(3)]],
                               constant uint& gated [[buffer(4)]], uint2 at [[thread_position_in_grid]]) {
  const float factor = gated != 0 ? 1.0f / (1.0f + exp(-gate[at.y])) : 1.0f;
  const ulong place = ulong(at.y) * width + at.x;
  y[place] = fma(factor, x[place], y[place]);
}

#define MM_SHARED_FOR(name, Codec, group, general, suffix, columns)                                                  \
  template [[host_name("moe_shared_gate_up_" #name suffix "_" #columns)]]                                            \
  [[kernel, max_total_threads_per_threadgroup(128)]] void                                                            \
  moe_shared_gate_up<Codec, Scaling<group, general>, columns>(                                                       \
      device const uchar*, device const uchar*, device const float*, device const uchar*, device const uchar*,       \
      device const float*, device const half*, device const float*, device uchar*, constant TiledMatrix&,             \
      constant LinearParams&, constant float2&, threadgroup uchar*, uint2, uint, uint);
#define MM_SHARED(name, Codec, group, general, suffix)     \
  MM_SHARED_FOR(name, Codec, group, general, suffix, 1)    \
  MM_SHARED_FOR(name, Codec, group, general, suffix, 4)
#define MM_SHARED_GENERAL(name, Codec)      \
  MM_SHARED(name, Codec, 32, true, "")      \
  MM_SHARED(name, Codec, 16, true, "_by16")
MM_FOR_EACH_CODEC(MM_SHARED_GENERAL)
MM_SHARED(e2m1, codecs::E2m1, 16, false, "_g16")
MM_SHARED(e2m1, codecs::E2m1, 32, false, "_g32")
MM_SHARED(e2m1, codecs::E2m1, 64, false, "_g64")
MM_SHARED(int4, codecs::Integer<4>, 32, false, "_g32")
MM_SHARED(int4, codecs::Integer<4>, 64, false, "_g64")
MM_SHARED(int8, codecs::Integer<8>, 32, false, "_g32")
MM_SHARED(e4m3, codecs::E4m3, 32, false, "_g32")
#define MM_SHARED_DENSE(T, columns)                                                                                   \
  template [[host_name("moe_shared_gate_up_" #T "_" #columns)]] [[kernel, max_total_threads_per_threadgroup(128)]]    \
  void moe_shared_dense_gate_up<T, columns>(device const uint4*, device const uint4*, device const T*,                \
                                            device const float*, device uchar*, constant uint&, constant uint&,       \
                                            constant LinearParams&, threadgroup uchar*, uint2, uint, uint);
MM_SHARED_DENSE(half, 1)
MM_SHARED_DENSE(half, 4)
MM_SHARED_DENSE(bfloat, 1)
MM_SHARED_DENSE(bfloat, 4)
