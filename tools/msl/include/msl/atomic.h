// Atomics in device and threadgroup memory. Instrumented, each first tells the
// executor, and loads and stores are read-modify-writes, which clang's load and
// store tracing leaves alone.
#pragma once

namespace metal {

enum memory_order {
  memory_order_relaxed = 0,
  memory_order_acquire = 2,
  memory_order_release = 3,
  memory_order_acq_rel = 4,
  memory_order_seq_cst = 5
};
enum class mem_flags {
  mem_none = 0,
  mem_device = 1,
  mem_threadgroup = 2,
  mem_texture = 4,
  mem_threadgroup_imageblock = 8,
  mem_object_data = 16
};
MSL_FN constexpr mem_flags operator|(mem_flags a, mem_flags b) {
  return static_cast<mem_flags>(static_cast<int>(a) | static_cast<int>(b));
}
enum thread_scope { thread_scope_thread, thread_scope_simdgroup, thread_scope_threadgroup, thread_scope_device };

template <typename T>
struct msl_atomic {
  T value;
};
template <typename T>
using atomic = msl_atomic<T>;
template <typename T>
using _atomic = msl_atomic<T>;

#ifndef MSL_TARGET_AIR  // which has its own
#if defined(MSL_INSTRUMENTED)
extern "C" void msl_atomic_access(const volatile void*, uint32_t size);
#define MSL_ATOMIC_ACCESS(p) msl_atomic_access((const volatile void*)(p), sizeof(*(p)))
#else
#define MSL_ATOMIC_ACCESS(p) (void)0
#endif
template <int kBytes>
struct msl_word {
  using type = uint;
};
template <>
struct msl_word<1> {
  using type = uchar;
};
template <>
struct msl_word<8> {
  using type = ulong;
};

#define MSL_ATOMICS(SPACE)                                                                                    \
  template <typename T>                                                                                       \
  MSL_FN T atomic_load_explicit(const volatile SPACE msl_atomic<T>* p, memory_order) {                        \
    MSL_ATOMIC_ACCESS(p);                                                                                     \
    using W = typename msl_word<sizeof(T)>::type;                                                             \
    MSL_ATOMIC_LOAD(SPACE)                                                                                    \
  }                                                                                                           \
  template <typename T, typename U>                                                                           \
  MSL_FN void atomic_store_explicit(volatile SPACE msl_atomic<T>* p, U v, memory_order) {                     \
    MSL_ATOMIC_ACCESS(p);                                                                                     \
    using W = typename msl_word<sizeof(T)>::type;                                                             \
    MSL_ATOMIC_STORE(SPACE)                                                                                   \
  }                                                                                                           \
  template <typename T, typename U>                                                                           \
  MSL_FN T atomic_exchange_explicit(volatile SPACE msl_atomic<T>* p, U v, memory_order) {                     \
    MSL_ATOMIC_ACCESS(p);                                                                                     \
    using W = typename msl_word<sizeof(T)>::type;                                                             \
    return __builtin_bit_cast(                                                                                \
        T, __atomic_exchange_n((volatile SPACE W*)&p->value, __builtin_bit_cast(W, static_cast<T>(v)), 0));   \
  }                                                                                                           \
  template <typename T, typename U>                                                                           \
  MSL_FN bool atomic_compare_exchange_weak_explicit(volatile SPACE msl_atomic<T>* p, thread T* expected, U v, \
                                                    memory_order, memory_order) {                             \
    MSL_ATOMIC_ACCESS(p);                                                                                     \
    using W = typename msl_word<sizeof(T)>::type;                                                             \
    W seen = __builtin_bit_cast(W, *expected);                                                                \
    const bool done = __atomic_compare_exchange_n((volatile SPACE W*)&p->value, &seen,                        \
                                                  __builtin_bit_cast(W, static_cast<T>(v)), false, 0, 0);     \
    *expected = __builtin_bit_cast(T, seen);                                                                  \
    return done;                                                                                              \
  }                                                                                                           \
  MSL_FETCH(SPACE, add)                                                                                       \
  MSL_FETCH(SPACE, sub)                                                                                       \
  MSL_FETCH(SPACE, max) MSL_FETCH(SPACE, min) MSL_FETCH(SPACE, and) MSL_FETCH(SPACE, or) MSL_FETCH(SPACE, xor)
#define MSL_FETCH(SPACE, op)                                                                  \
  template <typename T, typename U>                                                           \
  MSL_FN T atomic_fetch_##op##_explicit(volatile SPACE msl_atomic<T>* p, U v, memory_order) { \
    MSL_ATOMIC_ACCESS(p);                                                                     \
    return __atomic_fetch_##op(&p->value, static_cast<T>(v), 0);                              \
  }
#if defined(MSL_INSTRUMENTED)
#define MSL_ATOMIC_LOAD(SPACE) return __builtin_bit_cast(T, __atomic_fetch_or((volatile SPACE W*)&p->value, W(0), 0));
#define MSL_ATOMIC_STORE(SPACE) \
  (void)__atomic_exchange_n((volatile SPACE W*)&p->value, __builtin_bit_cast(W, static_cast<T>(v)), 0);
#else
#define MSL_ATOMIC_LOAD(SPACE) return __builtin_bit_cast(T, __atomic_load_n((const volatile SPACE W*)&p->value, 0));
#define MSL_ATOMIC_STORE(SPACE) \
  __atomic_store_n((volatile SPACE W*)&p->value, __builtin_bit_cast(W, static_cast<T>(v)), 0);
#endif
MSL_ATOMICS(device)
MSL_ATOMICS(threadgroup)
#define MSL_ATOMIC_OF_64_BITS(op)                                                            \
  MSL_FN void atomic_##op##_explicit(volatile device msl_atomic<ulong>* p, ulong v, memory_order) { \
    MSL_ATOMIC_ACCESS(p);                                                                    \
    (void)__atomic_fetch_##op(&p->value, v, 0);                                              \
  }
MSL_ATOMIC_OF_64_BITS(max)
MSL_ATOMIC_OF_64_BITS(min)
#undef MSL_ATOMIC_OF_64_BITS
#undef MSL_ATOMICS
#undef MSL_FETCH
#undef MSL_ATOMIC_LOAD
#undef MSL_ATOMIC_STORE

MSL_FN void atomic_thread_fence(mem_flags, memory_order = memory_order_seq_cst, thread_scope = thread_scope_device) {
#ifdef MSL_TARGET_PTX
  asm volatile("fence.acq_rel.gpu;" ::: "memory");
#else
  __atomic_thread_fence(5);
#endif
}
#endif

}  // namespace metal

using atomic_uint = metal::msl_atomic<uint>;
using atomic_int = metal::msl_atomic<int>;
using atomic_float = metal::msl_atomic<float>;
using atomic_bool = metal::msl_atomic<bool>;
using atomic_ulong = metal::msl_atomic<ulong>;
namespace metal {
using ::atomic_bool;
using ::atomic_float;
using ::atomic_int;
using ::atomic_uint;
using ::atomic_ulong;
}  // namespace metal
