// The executor's primitives (src/backends/msl/host/executor.cpp).
#pragma once
#include "base.h"

#define SITE __attribute__((convergent, nomerge))
SITE void msl_threadgroup_barrier(u32 flags);
SITE void msl_simdgroup_barrier(u32 flags);
SITE const u8* msl_exchange(const void* mine, u32 size, u32* active);
u32 msl_current_lane(void);
u32 msl_matrix_lane_mask(void);
void msl_atomic_access(const volatile void* p, u32 size);
#undef SITE

#define SLOT 64  // bytes from one lane's offer to the next

INLINE u32 own_lane(void) {
  return msl_current_lane();
}
INLINE u32 matrix_lane_mask(void) {
  return msl_matrix_lane_mask();
}
INLINE TOGETHER void threadgroup_barrier(u32 flags) {
  msl_threadgroup_barrier(flags);
}
INLINE TOGETHER void simdgroup_barrier(u32 flags) {
  msl_simdgroup_barrier(flags);
}

// What the active lanes gave, a word each.
typedef struct {
  const u8* slots;
  u32 active;
} Words;
INLINE TOGETHER Words give_word(u32 mine) {
  Words all;
  all.slots = msl_exchange(&mine, sizeof(mine), &all.active);
  return all;
}
INLINE TOGETHER u32 word_of(Words all, u32 lane) {
  return *(const u32*)(all.slots + SLOT * (lane % 32));
}
// Four words each.
typedef Words SeveralWords;
INLINE TOGETHER SeveralWords give_words(const u32 mine[4]) {
  SeveralWords all;
  all.slots = msl_exchange(mine, 4 * sizeof(u32), &all.active);
  return all;
}
INLINE TOGETHER u32 word_of_several(SeveralWords all, u32 lane, u32 which) {
  return ((const u32*)(all.slots + SLOT * (lane % 32)))[which];
}
INLINE TOGETHER _Bool any_lane(_Bool mine) {
  const Words all = give_word(mine);
  u32 found = 0;
  for (u32 lane = 0; lane < 32; ++lane) found |= all.active >> lane & 1 & word_of(all, lane);
  return found != 0;
}
INLINE TOGETHER u32 lanes_where(_Bool mine) {
  const Words all = give_word(mine);
  u32 found = 0;
  for (u32 lane = 0; lane < 32; ++lane) found |= (word_of(all, lane) & 1) << lane;
  return found & all.active;
}

INLINE void note_atomic(const volatile void* p, u32 size) {
#ifdef INSTRUMENTED
  msl_atomic_access(p, size);
#else
  (void)p, (void)size;
#endif
}
