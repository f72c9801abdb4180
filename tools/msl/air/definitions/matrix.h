// 8x8 matrices over the lanes of a simdgroup: each holds two neighbours of a row. Lane bits, from the
// lowest: column 2, row 1, row 2, column 4, row 4. The tool calls these with a lane's two elements,
// out by memory, where AIR has values of 64 elements.
#pragma once
#include "base.h"

INLINE u32 bit(u32 x, u32 which) {
  return x >> which & 1;
}
INLINE u32 matrix_row(u32 lane) {
  return bit(lane, 1) | bit(lane, 2) << 1 | bit(lane, 4) << 2;
}
INLINE u32 matrix_column(u32 lane) {
  return bit(lane, 0) << 1 | bit(lane, 3) << 2;
}
INLINE u32 matrix_lane(u32 row, u32 column) {
  return bit(column, 1) | bit(row, 0) << 1 | bit(row, 1) << 2 | bit(column, 2) << 3 | bit(row, 2) << 4;
}
// Which place of a matrix a lane has, where the device numbers its lanes otherwise.
INLINE u32 matrix_seat(void) {
  return own_lane() ^ matrix_lane_mask();
}

// Element (row, column) lies at row * row_step + column * column_step.
#define MATRIX_MEMORY(type)                                                                                         \
  TOGETHER DEFINE(void, matrix_load_##type, "msl.matrix.load." #type, type* out, const type* from, u64 column_step, \
                  u64 row_step) {                                                                                   \
    const u64 row = matrix_row(matrix_seat()), column = matrix_column(matrix_seat());                               \
    out[0] = from[row * row_step + column * column_step];                                                           \
    out[1] = from[row * row_step + (column + 1) * column_step];                                                     \
  }                                                                                                                 \
  TOGETHER DEFINE(void, matrix_store_##type, "msl.matrix.store." #type, type a, type b, type* to, u64 column_step,  \
                  u64 row_step) {                                                                                   \
    const u64 row = matrix_row(matrix_seat()), column = matrix_column(matrix_seat());                               \
    to[row * row_step + column * column_step] = a;                                                                  \
    to[row * row_step + (column + 1) * column_step] = b;                                                            \
  }                                                                                                                 \
  DEFINE(void, matrix_diagonal_##type, "msl.matrix.diagonal." #type, type* out, type x) {                           \
    const u32 row = matrix_row(matrix_seat()), column = matrix_column(matrix_seat());                               \
    out[0] = row == column ? x : type##_of_f32(0);                                                                  \
    out[1] = row == column + 1 ? x : type##_of_f32(0);                                                              \
  }
FOR_FLOATS(MATRIX_MEMORY)
#undef MATRIX_MEMORY

// Sums of products in f32, the sum so far first, fused.
INLINE TOGETHER void matrix_multiply(f32 sum[2], const f32 a[2], const f32 b[2]) {
  const u32 mine[4] = {word_of_f32(a[0]), word_of_f32(a[1]), word_of_f32(b[0]), word_of_f32(b[1])};
  const SeveralWords all = give_words(mine);
  const u32 mask = matrix_lane_mask(), row = matrix_row(matrix_seat()), column = matrix_column(matrix_seat());
  for (u32 k = 0; k < 8; ++k) {
    const f32 left = f32_of_word(word_of_several(all, matrix_lane(row, k) ^ mask, k % 2));
    const u32 from = matrix_lane(k, column) ^ mask;
    sum[0] = __builtin_fmaf(left, f32_of_word(word_of_several(all, from, 2)), sum[0]);
    sum[1] = __builtin_fmaf(left, f32_of_word(word_of_several(all, from, 3)), sum[1]);
  }
}
#define MATRIX_MULTIPLY(to, left, right, addend)                                                                     \
  TOGETHER DEFINE(void, matrix_##to##left##right##addend,                                                            \
                  "msl.matrix.multiply_accumulate." #to "." #left "." #right "." #addend, to* out, left a0, left a1, \
                  right b0, right b1, addend c0, addend c1) {                                                        \
    const f32 a[2] = {f32_of_##left(a0), f32_of_##left(a1)}, b[2] = {f32_of_##right(b0), f32_of_##right(b1)};        \
    f32 sum[2] = {f32_of_##addend(c0), f32_of_##addend(c1)};                                                         \
    matrix_multiply(sum, a, b);                                                                                      \
    out[0] = to##_of_f32(sum[0]);                                                                                    \
    out[1] = to##_of_f32(sum[1]);                                                                                    \
  }
#define MATRIX_MULTIPLY_RIGHTS(to, left, addend) \
  MATRIX_MULTIPLY(to, left, f32, addend)         \
  MATRIX_MULTIPLY(to, left, f16, addend)         \
  MATRIX_MULTIPLY(to, left, bf16, addend)
#define MATRIX_MULTIPLY_LEFTS(to, addend) \
  MATRIX_MULTIPLY_RIGHTS(to, f32, addend) \
  MATRIX_MULTIPLY_RIGHTS(to, f16, addend) \
  MATRIX_MULTIPLY_RIGHTS(to, bf16, addend)
#define MATRIX_MULTIPLY_ADDENDS(to) \
  MATRIX_MULTIPLY_LEFTS(to, f32)    \
  MATRIX_MULTIPLY_LEFTS(to, f16)    \
  MATRIX_MULTIPLY_LEFTS(to, bf16)
FOR_FLOATS(MATRIX_MULTIPLY_ADDENDS)
