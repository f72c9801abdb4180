// What attention on the matrix units needs of tiles beyond their product: the largest and the sum
// over a tile's rows or columns, the softmax over tiles one after another, and tokens made from
// numbers in registers.
#pragma once
#include "attention.h"
#include "tile_multiply.h"
#include "unroll.h"

// Scores become powers of two: what they are multiplied with on the way.
constant constexpr float kLog2E = 1.44269504f;

// Over the four lanes that hold a row of a tile.
METAL_FUNC float row_max(float v) {
#ifdef __METAL_MARLIN_PTX__
  v = max(v, simd_shuffle_xor(v, ushort(1)));
  return max(v, simd_shuffle_xor(v, ushort(2)));
#else
  v = max(v, simd_shuffle_xor(v, ushort(1)));
  return max(v, simd_shuffle_xor(v, ushort(8)));
#endif
}
METAL_FUNC float row_sum(float v) {
#ifdef __METAL_MARLIN_PTX__
  v += simd_shuffle_xor(v, ushort(1));
  return v + simd_shuffle_xor(v, ushort(2));
#else
  v += simd_shuffle_xor(v, ushort(1));
  return v + simd_shuffle_xor(v, ushort(8));
#endif
}
// Over the eight lanes that hold a column.
METAL_FUNC float column_max(float v) {
#ifdef __METAL_MARLIN_PTX__
  v = max(v, simd_shuffle_xor(v, ushort(4)));
  v = max(v, simd_shuffle_xor(v, ushort(8)));
#else
  v = max(v, simd_shuffle_xor(v, ushort(2)));
  v = max(v, simd_shuffle_xor(v, ushort(4)));
#endif
  return max(v, simd_shuffle_xor(v, ushort(16)));
}
METAL_FUNC float column_sum(float v) {
#ifdef __METAL_MARLIN_PTX__
  v += simd_shuffle_xor(v, ushort(4));
  v += simd_shuffle_xor(v, ushort(8));
#else
  v += simd_shuffle_xor(v, ushort(2));
  v += simd_shuffle_xor(v, ushort(4));
#endif
  return v + simd_shuffle_xor(v, ushort(16));
}

// What a lane has seen of its two rows of scores, or its two columns: the largest score, times log2(e), and
// the sum of its own weights over that.
struct SoftmaxState {
  float top[2];
  float total[2];
};

// Scores, times `factor`, become weights of their rows, or columns; gives what sums so far keep of theirs.
template <bool kRows, uint kScores>
METAL_FUNC float2 weigh(thread TileSums (&scores)[kScores], float factor, thread SoftmaxState& state) {
  float now[2] = {-INFINITY, -INFINITY};
  MM_UNROLL for (uint i = 0; i < kScores; ++i) {
    MM_UNROLL for (uint n = 0; n < 4; ++n) {
      const uint line = kRows ? n / 2 : n % 2;
      now[line] = max(now[line], scores[i].e[n]);
    }
  }
  float2 keep;
  float sum[2] = {0.0f, 0.0f};
  MM_UNROLL for (uint line = 0; line < 2; ++line) {
    const float top = max(state.top[line], (kRows ? row_max(now[line]) : column_max(now[line])) * factor);
    now[line] = top == -INFINITY ? 0.0f : top;  // nothing seen yet
    keep[line] = fast::exp2(state.top[line] - now[line]);
    state.top[line] = top;
  }
  MM_UNROLL for (uint i = 0; i < kScores; ++i) {
    MM_UNROLL for (uint n = 0; n < 4; ++n) {
      const uint line = kRows ? n / 2 : n % 2;
      scores[i].e[n] = fast::exp2(fma(scores[i].e[n], factor, -now[line]));
      sum[line] += scores[i].e[n];
    }
  }
  MM_UNROLL for (uint line = 0; line < 2; ++line) state.total[line] = fma(state.total[line], keep[line], sum[line]);
  return keep;
}

// Which input of its unit column `column` of tile `tile` stands for, so that a lane's columns of
// two tiles are eight neighbours, wherever they come from.
METAL_FUNC uint spread_input(uint tile, uint column) {
  return tile / 2 * 32 + column / 2 % 4 * 8 + tile % 2 * 4 + column / 8 * 2 + column % 2;
}

constant constexpr uint kTileTokenElements = 16 * kTileTokens, kTileTokenBytes = 2 * kTileTokenElements;

// Tokens from numbers in registers: element e of pair h is input 8 h + token_input(lane, e) of token
// token_of(lane, e). On Metal a lane's pair is of two tokens, on NVIDIA of two inputs.
#ifdef __METAL_MARLIN_PTX__
METAL_FUNC uint token_input(uint lane, uint e) {
  return tile_column(lane) + e;
}
METAL_FUNC uint token_of(uint lane, uint) {
  return tile_row(lane);
}
template <typename T>
METAL_FUNC TileTokens<T> tokens_from(const thread vec<T, 2>* pairs, TileStage) {
  TileTokens<T> tokens;
  MM_UNROLL for (uint h = 0; h < 2; ++h) tokens.e[h] = as_type<uint>(pairs[h]);
  return tokens;
}
// A tile of tokens in threadgroup memory, which any simdgroup may read.
template <typename T>
METAL_FUNC void keep_tokens(threadgroup T* at, const thread vec<T, 2>* pairs, uint lane) {
  MM_UNROLL for (uint h = 0; h < 2; ++h)((threadgroup vec<T, 2>*)at)[32 * h + lane] = pairs[h];
}
template <typename T>
METAL_FUNC TileTokens<T> kept_tokens(threadgroup const T* at, uint lane) {
  TileTokens<T> tokens;
  MM_UNROLL for (uint h = 0; h < 2; ++h) tokens.e[h] = as_type<uint>(((threadgroup const vec<T, 2>*)at)[32 * h + lane]);
  return tokens;
}
// Sums of rows as inputs and columns as tokens.
template <typename T>
METAL_FUNC TileTokens<T> tokens_from(TileSums sums, TileStage) {
  TileTokens<T> tokens;
  MM_UNROLL for (uint h = 0; h < 2; ++h) tokens.e[h] =
      msl_transpose_matrix(as_type<uint>(vec<T, 2>(T(sums.e[2 * h]), T(sums.e[2 * h + 1]))));
  return tokens;
}
#else
METAL_FUNC uint token_input(uint lane, uint) {
  return tile_row(lane);
}
METAL_FUNC uint token_of(uint lane, uint e) {
  return tile_column(lane) + e;
}
template <typename T>
METAL_FUNC void keep_tokens(threadgroup T* at, const thread vec<T, 2>* pairs, uint lane) {
  MM_UNROLL for (uint h = 0; h < 2; ++h) MM_UNROLL for (uint e = 0; e < 2; ++e)
      at[(8 * h + tile_row(lane)) * 8 + tile_column(lane) + e] = pairs[h][e];
}
template <typename T>
METAL_FUNC TileTokens<T> kept_tokens(threadgroup const T* at, uint) {
  TileTokens<T> tokens;
  MM_UNROLL for (uint h = 0; h < 2; ++h) simdgroup_load(tokens.m[h], at + 64 * h, 8);
  return tokens;
}
template <typename T>
METAL_FUNC TileTokens<T> tokens_from(const thread vec<T, 2>* pairs, TileStage stage) {
  TileTokens<T> tokens;
  if (stage_tiles) {
    threadgroup T* const elements = (threadgroup T*)stage.memory;
    keep_tokens(elements, pairs, stage.lane);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    tokens = kept_tokens<T>(elements, stage.lane);
    simdgroup_barrier(mem_flags::mem_threadgroup);
  } else {
    MM_UNROLL for (uint h = 0; h < 2; ++h) set_elements(tokens.m[h], pairs[h]);
  }
  return tokens;
}
template <typename T>
METAL_FUNC TileTokens<T> tokens_from(TileSums sums, TileStage stage) {
  vec<T, 2> pairs[2];
  MM_UNROLL for (uint h = 0; h < 2; ++h) pairs[h] = vec<T, 2>(T(sums.e[2 * h]), T(sums.e[2 * h + 1]));
  return tokens_from<T>(pairs, stage);
}
#endif
