// Barriers, and what the lanes of a simdgroup (32) or a quadgroup (4) do together. Lanes that are not
// active take no part.
#pragma once
#include "base.h"

TOGETHER DEFINE(void, wg_barrier, "air.wg.barrier", u32 flags, u32 scope) {
  threadgroup_barrier(flags);
}
TOGETHER DEFINE(void, simd_barrier, "air.simdgroup.barrier", u32 flags, u32 scope) {
  simdgroup_barrier(flags);
}
DEFINE(u16, simd_size_16, "air.get_simdgroup_size.i16", void) {
  return 32;
}
DEFINE(u32, simd_size_32, "air.get_simdgroup_size.i32", void) {
  return 32;
}
DEFINE(u16, simd_lane_16, "air.get_thread_index_in_simdgroup.i16", void) {
  return (u16)own_lane();
}
DEFINE(u32, simd_lane_32, "air.get_thread_index_in_simdgroup.i32", void) {
  return own_lane();
}

// ---- votes
TOGETHER DEFINE(_Bool, simd_any, "air.simd_any", _Bool mine) {
  return any_lane(mine);
}
TOGETHER DEFINE(_Bool, simd_all, "air.simd_all", _Bool mine) {
  return !any_lane(!mine);
}
TOGETHER DEFINE(u64, simd_ballot, "air.simd_ballot.i64", _Bool mine) {
  return lanes_where(mine);
}
TOGETHER DEFINE(u64, simd_active, "air.simd_active_threads_mask.i64", void) {
  return lanes_where(1);
}
TOGETHER DEFINE(_Bool, simd_is_first, "air.simd_is_first", void) {
  return (u32)__builtin_ctz(lanes_where(1)) == own_lane();
}
INLINE u32 quad_part(u32 lanes) {
  return lanes >> (own_lane() & 28) & 15;
}
TOGETHER DEFINE(_Bool, quad_any, "air.quad_any", _Bool mine) {
  return quad_part(lanes_where(mine)) != 0;
}
TOGETHER DEFINE(_Bool, quad_all, "air.quad_all", _Bool mine) {
  return quad_part(lanes_where(!mine)) == 0;
}

// ---- moving values. A source outside of the group leaves a lane its own.
INLINE TOGETHER u32 word_from(u32 mine, u32 source, u32 width) {
  const u32 lane = own_lane();
  const _Bool inside = source < width;
  const u32 found = word_of(give_word(mine), (lane & ~(width - 1)) + (inside ? source : lane & (width - 1)));
  return inside ? found : mine;
}
// Fills from the other end of `fill`, in vectors of `width` lanes.
INLINE TOGETHER u32 word_from_or(u32 mine, u32 fill, u32 source, u32 width) {
  const u32 lane = own_lane(), base = lane & ~(width - 1);
  const u32 kept = word_of(give_word(mine), base + (source & (width - 1)));
  const u32 filled = word_of(give_word(fill), base + (source & (width - 1)));
  return source < width ? kept : filled;
}

#define WORD_OF(type, size)                      \
  INLINE u32 word_of_##type(type x) {            \
    return (u32) __builtin_bit_cast(u##size, x); \
  }                                              \
  INLINE type type##_of_word(u32 x) {            \
    return __builtin_bit_cast(type, (u##size)x); \
  }
WORD_OF(f32, 32)
WORD_OF(f16, 16)
WORD_OF(bf16, 16)
WORD_OF(i8, 8)
WORD_OF(i16, 16)
WORD_OF(i32, 32)
WORD_OF(u8, 8)
WORD_OF(u16, 16)
WORD_OF(u32, 32)
#undef WORD_OF

#define MOVE(type, id, name, source, width, ...)                        \
  TOGETHER DEFINE(type, id##_##type, name, type x, ##__VA_ARGS__) {     \
    return type##_of_word(word_from(word_of_##type(x), source, width)); \
  }
#define FILL(type, id, name, source)                                                             \
  TOGETHER DEFINE(type, id##_##type, name, type x, type fill, u16 by, u16 width) {               \
    const u32 at = own_lane() & (width - 1u);                                                    \
    return type##_of_word(word_from_or(word_of_##type(x), word_of_##type(fill), source, width)); \
  }
#define MOVES(type, suffix, group, lane, width)                                                                       \
  MOVE(type, group##_shuffle, "air." #group "_shuffle." suffix, by, width, u16 by)                                    \
  MOVE(type, group##_shuffle_up, "air." #group "_shuffle_up." suffix, lane - by, width, u16 by)                       \
  MOVE(type, group##_shuffle_down, "air." #group "_shuffle_down." suffix, lane + by, width, u16 by)                   \
  MOVE(type, group##_shuffle_xor, "air." #group "_shuffle_xor." suffix, lane ^ by, width, u16 by)                     \
  MOVE(type, group##_rotate_up, "air." #group "_shuffle_rotate_up." suffix, (lane - by) & (width - 1), width, u16 by) \
  MOVE(type, group##_rotate_down, "air." #group "_shuffle_rotate_down." suffix, (lane + by) & (width - 1), width,     \
       u16 by)                                                                                                        \
  MOVE(type, group##_broadcast, "air." #group "_broadcast." suffix, by, width, u16 by)                                \
  FILL(type, group##_fill_up, "air." #group "_shuffle_and_fill_up." suffix, at - by)                                  \
  FILL(type, group##_fill_down, "air." #group "_shuffle_and_fill_down." suffix, at + by)
#define ALL_MOVES(type, suffix)                                                                         \
  MOVES(type, suffix, simd, own_lane(), 32u)                                                            \
  MOVES(type, suffix, quad, (own_lane() & 3), 4u)                                                       \
  TOGETHER DEFINE(type, broadcast_first_##type, "air.simd_broadcast_first." suffix, type x) {           \
    const Words all = give_word(word_of_##type(x));                                                     \
    return type##_of_word(word_of(all, (u32)__builtin_ctz(all.active)));                                \
  }                                                                                                     \
  TOGETHER DEFINE(type, quad_first_##type, "air.quad_broadcast_first." suffix, type x) {                \
    const Words all = give_word(word_of_##type(x));                                                     \
    return type##_of_word(word_of(all, (own_lane() & 28) + (u32)__builtin_ctz(quad_part(all.active)))); \
  }

// ---- reductions: pairs of neighbours, then pairs of pairs, so that every lane of a full group has the
// same sum; a lane that is not active is passed over.
#define REDUCE(type, name, combine)                                            \
  INLINE TOGETHER type reduce_##name##_##type(type x, u32 first, u32 count) {  \
    const Words all = give_word(word_of_##type(x));                            \
    type value[32];                                                            \
    _Bool there[32];                                                           \
    for (u32 i = 0; i < count; ++i) {                                          \
      value[i] = type##_of_word(word_of(all, first + i));                      \
      there[i] = all.active >> (first + i) & 1;                                \
    }                                                                          \
    for (u32 step = 1; step < count; step *= 2) {                              \
      for (u32 i = 0; i < count; i += 2 * step) {                              \
        const type a = value[i], b = value[i + step];                          \
        value[i] = !there[i + step] ? a : !there[i] ? b : combine(type, a, b); \
        there[i] |= there[i + step];                                           \
      }                                                                        \
    }                                                                          \
    return value[0];                                                           \
  }
#define REDUCTION(type, suffix, name, combine)                                        \
  REDUCE(type, name, combine)                                                         \
  TOGETHER DEFINE(type, simd_##name##_##type, "air.simd_" #name "." suffix, type x) { \
    return reduce_##name##_##type(x, 0, 32);                                          \
  }                                                                                   \
  TOGETHER DEFINE(type, quad_##name##_##type, "air.quad_" #name "." suffix, type x) { \
    return reduce_##name##_##type(x, own_lane() & 28, 4);                             \
  }
// Prefixes go lane by lane.
#define SCAN(type, suffix, name, none, combine)                                                             \
  INLINE TOGETHER type scan_##name##_##type(type x, u32 end) {                                              \
    const Words all = give_word(word_of_##type(x));                                                         \
    type sum = none;                                                                                        \
    for (u32 i = 0; i < 32; ++i) {                                                                          \
      const type other = type##_of_word(word_of(all, i));                                                   \
      if (i < end && (all.active >> i & 1)) sum = combine(type, sum, other);                                \
    }                                                                                                       \
    return sum;                                                                                             \
  }                                                                                                         \
  TOGETHER DEFINE(type, inclusive_##name##_##type, "air.simd_prefix_inclusive_" #name "." suffix, type x) { \
    return scan_##name##_##type(x, own_lane() + 1);                                                         \
  }                                                                                                         \
  TOGETHER DEFINE(type, exclusive_##name##_##type, "air.simd_prefix_exclusive_" #name "." suffix, type x) { \
    return scan_##name##_##type(x, own_lane());                                                             \
  }

#define ADD(type, a, b) (type)((a) + (b))
#define MULTIPLY(type, a, b) (type)((a) * (b))
#define LEAST(type, a, b) ((b) < (a) ? (b) : (a))
#define GREATEST(type, a, b) ((b) > (a) ? (b) : (a))
#define AND(type, a, b) (type)((a) & (b))
#define OR(type, a, b) (type)((a) | (b))
#define XOR(type, a, b) (type)((a) ^ (b))
// Of floats, by way of f32: a NaN gives way to a number.
#define FLOAT_ADD(type, a, b) type##_of_f32(f32_of_##type(a) + f32_of_##type(b))
#define FLOAT_MULTIPLY(type, a, b) type##_of_f32(f32_of_##type(a) * f32_of_##type(b))
#define FLOAT_LEAST(type, a, b) type##_of_f32(__builtin_fminf(f32_of_##type(a), f32_of_##type(b)))
#define FLOAT_GREATEST(type, a, b) type##_of_f32(__builtin_fmaxf(f32_of_##type(a), f32_of_##type(b)))

#define FLOAT_LANES(type)                             \
  ALL_MOVES(type, #type)                              \
  REDUCTION(type, #type, sum, FLOAT_ADD)              \
  REDUCTION(type, #type, product, FLOAT_MULTIPLY)     \
  REDUCTION(type, #type, min, FLOAT_LEAST)            \
  REDUCTION(type, #type, max, FLOAT_GREATEST)         \
  SCAN(type, #type, sum, type##_of_f32(0), FLOAT_ADD) \
  SCAN(type, #type, product, type##_of_f32(1), FLOAT_MULTIPLY)
FOR_FLOATS(FLOAT_LANES)

#define INTEGER_LANES(type, suffix)          \
  ALL_MOVES(type, suffix)                    \
  REDUCTION(type, suffix, sum, ADD)          \
  REDUCTION(type, suffix, product, MULTIPLY) \
  REDUCTION(type, suffix, min, LEAST)        \
  REDUCTION(type, suffix, max, GREATEST)     \
  REDUCTION(type, suffix, and, AND)          \
  REDUCTION(type, suffix, or, OR)            \
  REDUCTION(type, suffix, xor, XOR)          \
  SCAN(type, suffix, sum, 0, ADD)            \
  SCAN(type, suffix, product, 1, MULTIPLY)
INTEGER_LANES(i8, "s.i8")
INTEGER_LANES(i16, "s.i16")
INTEGER_LANES(i32, "s.i32")
INTEGER_LANES(u8, "u.i8")
INTEGER_LANES(u16, "u.i16")
INTEGER_LANES(u32, "u.i32")
