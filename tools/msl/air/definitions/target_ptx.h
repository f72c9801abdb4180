// The same primitives by NVIDIA's instructions.
#pragma once
#include "base.h"

INLINE u32 own_lane(void) {
  return (u32)__nvvm_read_ptx_sreg_laneid();
}
INLINE u32 matrix_lane_mask(void) {
  return 0;
}
INLINE TOGETHER void threadgroup_barrier(u32 flags) {
  (void)flags;
  __nvvm_bar_sync(0);
}
INLINE TOGETHER void simdgroup_barrier(u32 flags) {
  (void)flags;
  __nvvm_bar_warp_sync(0xFFFFFFFFu);  // all must call it; lanes that have returned do not count
}

// What the active lanes gave, a word each; all of them ask for the same lanes at the same time.
typedef struct {
  u32 mine;
  u32 active;
} Words;
INLINE TOGETHER u32 active_lanes(void) {
  u32 mask;
  __asm__ volatile("activemask.b32 %0;" : "=r"(mask));
  return mask;
}
INLINE TOGETHER Words give_word(u32 mine) {
  return (Words){mine, active_lanes()};
}
INLINE TOGETHER u32 word_of(Words all, u32 lane) {
  return (u32)__nvvm_shfl_sync_idx_i32(all.active, (i32)all.mine, (i32)(lane % 32), 31);
}
// Four words each.
typedef struct {
  u32 mine[4];
  u32 active;
} SeveralWords;
INLINE TOGETHER SeveralWords give_words(const u32 mine[4]) {
  return (SeveralWords){{mine[0], mine[1], mine[2], mine[3]}, active_lanes()};
}
INLINE TOGETHER u32 word_of_several(SeveralWords all, u32 lane, u32 which) {
  return (u32)__nvvm_shfl_sync_idx_i32(all.active, (i32)all.mine[which], (i32)(lane % 32), 31);
}
INLINE TOGETHER _Bool any_lane(_Bool mine) {
  return __nvvm_vote_any_sync(active_lanes(), mine);
}
INLINE TOGETHER u32 lanes_where(_Bool mine) {
  return (u32)__nvvm_vote_ballot_sync(active_lanes(), mine);
}

INLINE void note_atomic(const volatile void* p, u32 size) {
  (void)p, (void)size;
}
