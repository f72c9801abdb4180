// Atomics, all relaxed; the detectors are told of each. Loads and stores are exchanges here, which the
// detectors do not take for plain accesses; a store has an order that keeps LLVM from making it one.
#pragma once
#include "base.h"

#define ORDER __ATOMIC_RELAXED
#define MODIFY(type, id, name, builtin)                                                                \
  DEFINE(type, atomic_##id##_##type, name, type* p, type x, u32 order, u32 scope, _Bool is_volatile) { \
    note_atomic(p, sizeof(type));                                                                      \
    return builtin(p, x, ORDER);                                                                       \
  }
#define MEMORY(type, suffix, space)                                                                                 \
  DEFINE(type, atomic_load_##space##type, "air.atomic." #space ".load." suffix, type* p, u32 order, u32 scope,      \
         _Bool is_volatile) {                                                                                       \
    note_atomic(p, sizeof(type));                                                                                   \
    const u32 bits = __atomic_fetch_or((u32*)p, 0, ORDER);                                                          \
    return __builtin_bit_cast(type, bits);                                                                          \
  }                                                                                                                 \
  DEFINE(void, atomic_store_##space##type, "air.atomic." #space ".store." suffix, type* p, type x, u32 order,       \
         u32 scope, _Bool is_volatile) {                                                                            \
    note_atomic(p, sizeof(type));                                                                                   \
    (void)__atomic_exchange_n((u32*)p, __builtin_bit_cast(u32, x), __ATOMIC_ACQ_REL);                               \
  }                                                                                                                 \
  DEFINE(type, atomic_exchange_##space##type, "air.atomic." #space ".xchg." suffix, type* p, type x, u32 order,     \
         u32 scope, _Bool is_volatile) {                                                                            \
    note_atomic(p, sizeof(type));                                                                                   \
    type old;                                                                                                       \
    __atomic_exchange(p, &x, &old, ORDER);                                                                          \
    return old;                                                                                                     \
  }                                                                                                                 \
  DEFINE(type, atomic_compare_##space##type, "air.atomic." #space ".cmpxchg.weak." suffix, type* p, type* expected, \
         type desired, u32 success, u32 failure, u32 scope, _Bool is_volatile) {                                    \
    note_atomic(p, sizeof(type));                                                                                   \
    type old = *expected;                                                                                           \
    __atomic_compare_exchange(p, &old, &desired, 0, ORDER, ORDER);                                                  \
    return *expected = old;                                                                                         \
  }
#define INTEGER_ATOMICS(type, sign, space)                                         \
  MODIFY(type, add_##space, "air.atomic." #space ".add." sign, __atomic_fetch_add) \
  MODIFY(type, sub_##space, "air.atomic." #space ".sub." sign, __atomic_fetch_sub) \
  MODIFY(type, and_##space, "air.atomic." #space ".and." sign, __atomic_fetch_and) \
  MODIFY(type, or_##space, "air.atomic." #space ".or." sign, __atomic_fetch_or)    \
  MODIFY(type, xor_##space, "air.atomic." #space ".xor." sign, __atomic_fetch_xor) \
  MODIFY(type, min_##space, "air.atomic." #space ".min." sign, __atomic_fetch_min) \
  MODIFY(type, max_##space, "air.atomic." #space ".max." sign, __atomic_fetch_max)
#define FLOAT_ATOMICS(space)                                                                                  \
  DEFINE(f32, atomic_add_##space##_f32, "air.atomic." #space ".add.f32", f32* p, f32 x, u32 order, u32 scope, \
         _Bool is_volatile) {                                                                                 \
    note_atomic(p, sizeof(x));                                                                                \
    return __atomic_fetch_add(p, x, ORDER);                                                                   \
  }                                                                                                           \
  DEFINE(f32, atomic_sub_##space##_f32, "air.atomic." #space ".sub.f32", f32* p, f32 x, u32 order, u32 scope, \
         _Bool is_volatile) {                                                                                 \
    note_atomic(p, sizeof(x));                                                                                \
    return __atomic_fetch_sub(p, x, ORDER);                                                                   \
  }
#define ATOMICS(space)                 \
  MEMORY(u32, "i32", space)            \
  MEMORY(f32, "f32", space)            \
  INTEGER_ATOMICS(i32, "s.i32", space) \
  INTEGER_ATOMICS(u32, "u.i32", space) \
  FLOAT_ATOMICS(space)
ATOMICS(global)
ATOMICS(local)
// 64 bits: least and greatest without a result, for device memory.
INTEGER_ATOMICS(u64, "u.i64", global)

DEFINE(void, atomic_fence, "air.atomic.fence", u32 flags, u32 order, u32 scope) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
DEFINE(u32, load_coherent, "air.load.system_coherent.volatile.i32.p1i32", u32* p) {
  note_atomic(p, sizeof(*p));
  return __atomic_fetch_or(p, 0, ORDER);
}
DEFINE(void, store_coherent, "air.store.system_coherent.volatile.i32.p1i32", u32 x, u32* p) {
  note_atomic(p, sizeof(*p));
  (void)__atomic_exchange_n(p, x, __ATOMIC_ACQ_REL);
}
