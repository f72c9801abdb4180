// What threads do together, and atomics, as calls of AIR's functions by the names that Apple's compiler
// gives them. A type for which there is none is an error: no function for the call, or a symbol that
// nobody knows.
#pragma once

namespace metal {
namespace air {

#define MSL_AIR(name) __asm__("air." name)
#define MSL_AIR_PURE __attribute__((const))
#define MSL_AIR_FLOATS(X) X(float, "f32") X(half, "f16")
#define MSL_AIR_SCALARS(X)                                                                                   \
  X(char, "s.i8")                                                                                            \
  X(uchar, "u.i8") X(short, "s.i16") X(ushort, "u.i16") X(int, "s.i32") X(uint, "u.i32") MSL_AIR_FLOATS(X)
#define MSL_AIR_VECTORS(X)                                                                                   \
  X(int2, "s.v2i32") X(int4, "s.v4i32") X(uint2, "u.v2i32") X(uint4, "u.v4i32") X(half2, "v2f16") X(half4, "v4f16") \
  X(float2, "v2f32") X(float4, "v4f32")

enum Scope : uint { kThreadgroupScope = 1, kDeviceScope = 2 };
MSL_SYNC void wg_barrier(uint flags, uint scope) MSL_AIR("wg.barrier");
MSL_SYNC void simdgroup_barrier(uint flags, uint scope) MSL_AIR("simdgroup.barrier");
MSL_AIR_PURE ushort thread_index_in_simdgroup() MSL_AIR("get_thread_index_in_simdgroup.i16");

#define MSL_AIR_MOVE(T, suffix)                                                                     \
  MSL_SYNC T simd_shuffle(T, ushort) MSL_AIR("simd_shuffle." suffix);                               \
  MSL_SYNC T simd_shuffle_up(T, ushort) MSL_AIR("simd_shuffle_up." suffix);                         \
  MSL_SYNC T simd_shuffle_down(T, ushort) MSL_AIR("simd_shuffle_down." suffix);                     \
  MSL_SYNC T simd_shuffle_xor(T, ushort) MSL_AIR("simd_shuffle_xor." suffix);                       \
  MSL_SYNC T simd_shuffle_rotate_up(T, ushort) MSL_AIR("simd_shuffle_rotate_up." suffix);           \
  MSL_SYNC T simd_shuffle_rotate_down(T, ushort) MSL_AIR("simd_shuffle_rotate_down." suffix);       \
  MSL_SYNC T simd_broadcast(T, ushort) MSL_AIR("simd_broadcast." suffix);                           \
  MSL_SYNC T simd_broadcast_first(T) MSL_AIR("simd_broadcast_first." suffix);                       \
  MSL_SYNC T quad_shuffle(T, ushort) MSL_AIR("quad_shuffle." suffix);                               \
  MSL_SYNC T quad_shuffle_xor(T, ushort) MSL_AIR("quad_shuffle_xor." suffix);                       \
  MSL_SYNC T quad_broadcast(T, ushort) MSL_AIR("quad_broadcast." suffix);                           \
  MSL_SYNC T fill_up(T, T, ushort, ushort) MSL_AIR("simd_shuffle_and_fill_up." suffix);             \
  MSL_SYNC T fill_down(T, T, ushort, ushort) MSL_AIR("simd_shuffle_and_fill_down." suffix);
MSL_AIR_SCALARS(MSL_AIR_MOVE)
MSL_AIR_VECTORS(MSL_AIR_MOVE)
#undef MSL_AIR_MOVE

#define MSL_AIR_REDUCE(T, suffix)                                                                             \
  MSL_SYNC T simd_sum(T) MSL_AIR("simd_sum." suffix);                                                         \
  MSL_SYNC T simd_product(T) MSL_AIR("simd_product." suffix);                                                 \
  MSL_SYNC T simd_min(T) MSL_AIR("simd_min." suffix);                                                         \
  MSL_SYNC T simd_max(T) MSL_AIR("simd_max." suffix);                                                         \
  MSL_SYNC T quad_sum(T) MSL_AIR("quad_sum." suffix);                                                         \
  MSL_SYNC T quad_product(T) MSL_AIR("quad_product." suffix);                                                 \
  MSL_SYNC T quad_min(T) MSL_AIR("quad_min." suffix);                                                         \
  MSL_SYNC T quad_max(T) MSL_AIR("quad_max." suffix);                                                         \
  MSL_SYNC T simd_prefix_inclusive_sum(T) MSL_AIR("simd_prefix_inclusive_sum." suffix);                       \
  MSL_SYNC T simd_prefix_exclusive_sum(T) MSL_AIR("simd_prefix_exclusive_sum." suffix);                       \
  MSL_SYNC T simd_prefix_inclusive_product(T) MSL_AIR("simd_prefix_inclusive_product." suffix);               \
  MSL_SYNC T simd_prefix_exclusive_product(T) MSL_AIR("simd_prefix_exclusive_product." suffix);
MSL_AIR_SCALARS(MSL_AIR_REDUCE)
#undef MSL_AIR_REDUCE

#define MSL_AIR_BITS(T, suffix)                        \
  MSL_SYNC T simd_or(T) MSL_AIR("simd_or." suffix);    \
  MSL_SYNC T simd_and(T) MSL_AIR("simd_and." suffix);  \
  MSL_SYNC T simd_xor(T) MSL_AIR("simd_xor." suffix);  \
  MSL_SYNC T quad_or(T) MSL_AIR("quad_or." suffix);    \
  MSL_SYNC T quad_and(T) MSL_AIR("quad_and." suffix);  \
  MSL_SYNC T quad_xor(T) MSL_AIR("quad_xor." suffix);
MSL_AIR_BITS(int, "s.i32")
MSL_AIR_BITS(uint, "u.i32")
#undef MSL_AIR_BITS

MSL_SYNC ulong simd_ballot(bool) MSL_AIR("simd_ballot.i64");
MSL_SYNC ulong simd_active_threads_mask() MSL_AIR("simd_active_threads_mask.i64");

// ---- matrices: values of 64 elements, of which a lane has the first two
template <typename T>
using Matrix = T __attribute__((ext_vector_type(64)));
#define MSL_AIR_MATRIX_FLOATS(X) MSL_AIR_FLOATS(X) X(bfloat, "bf16")
#define MSL_AIR_MATRIX(T, suffix)                                                                                   \
  MSL_AIR_PURE Matrix<T> filled(T) MSL_AIR("simdgroup_matrix_8x8_init_filled.v64" suffix "." suffix);                \
  MSL_SYNC Matrix<T> diagonal(T) MSL_AIR("simdgroup_matrix_8x8_init_diag.v64" suffix "." suffix);                    \
  MSL_AIR_MATRIX_MEMORY(T, suffix, device, "p1")                                                                    \
  MSL_AIR_MATRIX_MEMORY(T, suffix, threadgroup, "p3")                                                               \
  MSL_SYNC Matrix<T> load(constant T*, ulong, ulong2, bool) MSL_AIR("simdgroup_matrix_8x8_load.v64" suffix ".p2" suffix);
#define MSL_AIR_MATRIX_MEMORY(T, suffix, SPACE, pointer)                                         \
  MSL_SYNC Matrix<T> load(const SPACE T*, ulong elements_of_row, ulong2 origin, bool transposed) \
      MSL_AIR("simdgroup_matrix_8x8_load.v64" suffix "." pointer suffix);                        \
  MSL_SYNC void store(Matrix<T>, SPACE T*, ulong elements_of_row, ulong2 origin, bool transposed) \
      MSL_AIR("simdgroup_matrix_8x8_store.v64" suffix "." pointer suffix);
MSL_AIR_MATRIX_FLOATS(MSL_AIR_MATRIX)
#undef MSL_AIR_MATRIX
#undef MSL_AIR_MATRIX_MEMORY
#define MSL_AIR_MULTIPLY(A, a, B, b, D, d)                         \
  MSL_SYNC Matrix<D> multiply_accumulate(Matrix<A>, Matrix<B>, Matrix<D>) \
      MSL_AIR("simdgroup_matrix_8x8_multiply_accumulate.v64" d ".v64" a ".v64" b ".v64" d);
MSL_AIR_MULTIPLY(float, "f32", float, "f32", float, "f32")
MSL_AIR_MULTIPLY(half, "f16", half, "f16", float, "f32")
MSL_AIR_MULTIPLY(half, "f16", half, "f16", half, "f16")
MSL_AIR_MULTIPLY(bfloat, "bf16", bfloat, "bf16", float, "f32")
MSL_AIR_MULTIPLY(bfloat, "bf16", bfloat, "bf16", bfloat, "bf16")
MSL_AIR_MULTIPLY(float, "f32", half, "f16", float, "f32")
MSL_AIR_MULTIPLY(half, "f16", float, "f32", float, "f32")
MSL_AIR_MULTIPLY(float, "f32", bfloat, "bf16", float, "f32")
MSL_AIR_MULTIPLY(bfloat, "bf16", float, "f32", float, "f32")
#undef MSL_AIR_MULTIPLY

// ---- atomics: order and scope, and whether the object is volatile
#define MSL_AIR_FETCH(T, suffix, SPACE, space, op) \
  T fetch_##op(SPACE T*, T, uint, uint, bool) MSL_AIR("atomic." space "." #op "." suffix);
#define MSL_AIR_ATOMIC_INTEGER(T, suffix, SPACE, space) \
  MSL_AIR_FETCH(T, suffix, SPACE, space, add)           \
  MSL_AIR_FETCH(T, suffix, SPACE, space, sub)           \
  MSL_AIR_FETCH(T, suffix, SPACE, space, min)           \
  MSL_AIR_FETCH(T, suffix, SPACE, space, max)           \
  MSL_AIR_FETCH(T, suffix, SPACE, space, and)           \
  MSL_AIR_FETCH(T, suffix, SPACE, space, or)            \
  MSL_AIR_FETCH(T, suffix, SPACE, space, xor)
#define MSL_AIR_ATOMIC_WORD(T, suffix, SPACE, space)                                                       \
  T atomic_load(const SPACE T*, uint, uint, bool) MSL_AIR("atomic." space ".load." suffix);                \
  void atomic_store(SPACE T*, T, uint, uint, bool) MSL_AIR("atomic." space ".store." suffix);              \
  T atomic_exchange(SPACE T*, T, uint, uint, bool) MSL_AIR("atomic." space ".xchg." suffix);               \
  T atomic_compare(SPACE T*, thread T*, T, uint, uint, uint, bool) MSL_AIR("atomic." space ".cmpxchg.weak." suffix);
#define MSL_AIR_ATOMICS(SPACE, space)                         \
  MSL_AIR_ATOMIC_INTEGER(int, "s.i32", SPACE, space)          \
  MSL_AIR_ATOMIC_INTEGER(uint, "u.i32", SPACE, space)         \
  MSL_AIR_FETCH(float, "f32", SPACE, space, add)              \
  MSL_AIR_FETCH(float, "f32", SPACE, space, sub)              \
  MSL_AIR_ATOMIC_WORD(int, "i32", SPACE, space)               \
  MSL_AIR_ATOMIC_WORD(uint, "i32", SPACE, space)              \
  MSL_AIR_ATOMIC_WORD(float, "f32", SPACE, space)
MSL_AIR_ATOMICS(device, "global")
MSL_AIR_ATOMICS(threadgroup, "local")
#undef MSL_AIR_ATOMICS
#undef MSL_AIR_ATOMIC_WORD
#undef MSL_AIR_ATOMIC_INTEGER
#undef MSL_AIR_FETCH
void atomic_fence(uint flags, uint order, uint scope) MSL_AIR("atomic.fence");

}  // namespace air

MSL_FN uint msl_lane() {
  return air::thread_index_in_simdgroup();
}
MSL_FN MSL_SYNC void threadgroup_barrier(mem_flags flags, memory_order = memory_order_seq_cst) {
  air::wg_barrier(static_cast<uint>(flags), air::kThreadgroupScope);
}
MSL_FN MSL_SYNC void simdgroup_barrier(mem_flags flags, memory_order = memory_order_seq_cst) {
  air::simdgroup_barrier(static_cast<uint>(flags), air::kThreadgroupScope);
}

#define MSL_AIR_MOVE(name)                       \
  template <typename T>                          \
  MSL_FN MSL_SYNC T name(T v, ushort which) {    \
    return air::name(v, which);                  \
  }
#define MSL_AIR_OF_ONE(name)                     \
  template <typename T>                          \
  MSL_FN MSL_SYNC T name(T v) {                  \
    return air::name(v);                         \
  }
MSL_AIR_MOVE(simd_shuffle)
MSL_AIR_MOVE(simd_shuffle_up)
MSL_AIR_MOVE(simd_shuffle_down)
MSL_AIR_MOVE(simd_shuffle_xor)
MSL_AIR_MOVE(simd_shuffle_rotate_up)
MSL_AIR_MOVE(simd_shuffle_rotate_down)
MSL_AIR_MOVE(simd_broadcast)
MSL_AIR_MOVE(quad_shuffle)
MSL_AIR_MOVE(quad_shuffle_xor)
MSL_AIR_MOVE(quad_broadcast)
MSL_AIR_OF_ONE(simd_broadcast_first)
MSL_AIR_OF_ONE(simd_sum)
MSL_AIR_OF_ONE(simd_product)
MSL_AIR_OF_ONE(simd_min)
MSL_AIR_OF_ONE(simd_max)
MSL_AIR_OF_ONE(simd_or)
MSL_AIR_OF_ONE(simd_and)
MSL_AIR_OF_ONE(simd_xor)
MSL_AIR_OF_ONE(quad_sum)
MSL_AIR_OF_ONE(quad_product)
MSL_AIR_OF_ONE(quad_min)
MSL_AIR_OF_ONE(quad_max)
MSL_AIR_OF_ONE(quad_or)
MSL_AIR_OF_ONE(quad_and)
MSL_AIR_OF_ONE(quad_xor)
MSL_AIR_OF_ONE(simd_prefix_inclusive_sum)
MSL_AIR_OF_ONE(simd_prefix_exclusive_sum)
MSL_AIR_OF_ONE(simd_prefix_inclusive_product)
MSL_AIR_OF_ONE(simd_prefix_exclusive_product)
#undef MSL_AIR_MOVE
#undef MSL_AIR_OF_ONE
template <typename T>
MSL_FN MSL_SYNC T simd_shuffle_and_fill_up(T v, T fill, ushort delta, ushort modulo = 32) {
  return air::fill_up(v, fill, delta, modulo);
}
template <typename T>
MSL_FN MSL_SYNC T simd_shuffle_and_fill_down(T v, T fill, ushort delta, ushort modulo = 32) {
  return air::fill_down(v, fill, delta, modulo);
}

struct simd_vote {
  using vote_t = ulong;
  ulong bits;
  explicit constexpr simd_vote(ulong v = 0) : bits(v) {}
  explicit operator ulong() const { return bits; }
  explicit operator uint() const { return static_cast<uint>(bits); }
  bool all() const { return bits == 0xFFFFFFFFul; }
  bool any() const { return bits != 0; }
};
MSL_FN MSL_SYNC simd_vote simd_ballot(bool v) {
  return simd_vote(air::simd_ballot(v));
}
MSL_FN MSL_SYNC simd_vote simd_active_threads_mask() {
  return simd_vote(air::simd_active_threads_mask());
}
MSL_SYNC bool simd_any(bool) MSL_AIR("simd_any");
MSL_SYNC bool simd_all(bool) MSL_AIR("simd_all");
MSL_SYNC bool simd_is_first() MSL_AIR("simd_is_first");

template <typename T, int R, int C>
struct simdgroup_matrix {
  static_assert(R == 8 && C == 8, "simdgroup matrices are 8x8");
  using storage_type = vec<T, 2>;
  storage_type elements;
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T value) : simdgroup_matrix(air::diagonal(value)) {}
  explicit simdgroup_matrix(air::Matrix<T> all) : elements(__builtin_shufflevector(all, all, 0, 1)) {}
  explicit operator air::Matrix<T>() const {
#define MSL_NONE8 -1, -1, -1, -1, -1, -1, -1, -1
    return __builtin_shufflevector(elements, elements, 0, 1, -1, -1, -1, -1, -1, -1, MSL_NONE8, MSL_NONE8, MSL_NONE8,
                                   MSL_NONE8, MSL_NONE8, MSL_NONE8, MSL_NONE8);
#undef MSL_NONE8
  }
  thread storage_type& thread_elements() { return elements; }
  const thread storage_type& thread_elements() const { return elements; }
};
using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat, 8, 8>;

template <typename T, int R, int C = R>
MSL_FN simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T v) {
  return simdgroup_matrix<T, R, C>(air::filled(v));
}
#define MSL_AIR_LOAD(SPACE)                                                                                    \
  template <typename T>                                                                                        \
  MSL_FN MSL_SYNC void simdgroup_load(thread simdgroup_matrix<T, 8, 8>& m, const SPACE T* p, ulong stride = 8, \
                                      ulong2 origin = ulong2{0, 0}, bool transposed = false) {                 \
    m = simdgroup_matrix<T, 8, 8>(air::load(p, stride, origin, transposed));                                   \
  }
#define MSL_AIR_STORE(SPACE)                                                                                   \
  template <typename T>                                                                                        \
  MSL_FN MSL_SYNC void simdgroup_store(simdgroup_matrix<T, 8, 8> m, SPACE T* p, ulong stride = 8,              \
                                       ulong2 origin = ulong2{0, 0}, bool transposed = false) {                \
    air::store(air::Matrix<T>(m), p, stride, origin, transposed);                                              \
  }
MSL_AIR_LOAD(device)
MSL_AIR_LOAD(threadgroup)
MSL_AIR_LOAD(constant)
MSL_AIR_STORE(device)
MSL_AIR_STORE(threadgroup)
#undef MSL_AIR_LOAD
#undef MSL_AIR_STORE
template <typename D, typename A, typename B>
MSL_FN MSL_SYNC void simdgroup_multiply_accumulate(thread simdgroup_matrix<D, 8, 8>& d, simdgroup_matrix<A, 8, 8> a,
                                                   simdgroup_matrix<B, 8, 8> b, simdgroup_matrix<D, 8, 8> c) {
  d = simdgroup_matrix<D, 8, 8>(
      air::multiply_accumulate(air::Matrix<A>(a), air::Matrix<B>(b), air::Matrix<D>(c)));
}
template <typename D, typename A, typename B>
MSL_FN MSL_SYNC void simdgroup_multiply(thread simdgroup_matrix<D, 8, 8>& d, simdgroup_matrix<A, 8, 8> a,
                                        simdgroup_matrix<B, 8, 8> b) {
  simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<D, 8, 8>(D(0)));
}

// ---- atomics
#define MSL_AIR_ATOMICS(SPACE)                                                                                      \
  template <typename T>                                                                                             \
  MSL_FN T atomic_load_explicit(const volatile SPACE msl_atomic<T>* p, memory_order order) {                        \
    return air::atomic_load((const SPACE T*)&p->value, order, air::kDeviceScope, true);                             \
  }                                                                                                                 \
  template <typename T, typename U>                                                                                 \
  MSL_FN void atomic_store_explicit(volatile SPACE msl_atomic<T>* p, U v, memory_order order) {                     \
    air::atomic_store((SPACE T*)&p->value, static_cast<T>(v), order, air::kDeviceScope, true);                      \
  }                                                                                                                 \
  template <typename T, typename U>                                                                                 \
  MSL_FN T atomic_exchange_explicit(volatile SPACE msl_atomic<T>* p, U v, memory_order order) {                     \
    return air::atomic_exchange((SPACE T*)&p->value, static_cast<T>(v), order, air::kDeviceScope, true);            \
  }                                                                                                                 \
  template <typename T, typename U>                                                                                 \
  MSL_FN bool atomic_compare_exchange_weak_explicit(volatile SPACE msl_atomic<T>* p, thread T* expected, U v,       \
                                                    memory_order success, memory_order failure) {                   \
    const T wanted = *expected;                                                                                     \
    *expected = air::atomic_compare((SPACE T*)&p->value, expected, static_cast<T>(v), success, failure,             \
                                    air::kDeviceScope, true);                                                       \
    return *expected == wanted;                                                                                     \
  }                                                                                                                 \
  MSL_AIR_FETCH(SPACE, add)                                                                                         \
  MSL_AIR_FETCH(SPACE, sub)                                                                                         \
  MSL_AIR_FETCH(SPACE, max) MSL_AIR_FETCH(SPACE, min) MSL_AIR_FETCH(SPACE, and) MSL_AIR_FETCH(SPACE, or)            \
  MSL_AIR_FETCH(SPACE, xor)
#define MSL_AIR_FETCH(SPACE, op)                                                                    \
  template <typename T, typename U>                                                                 \
  MSL_FN T atomic_fetch_##op##_explicit(volatile SPACE msl_atomic<T>* p, U v, memory_order order) { \
    return air::fetch_##op((SPACE T*)&p->value, static_cast<T>(v), order, air::kDeviceScope, true); \
  }
MSL_AIR_ATOMICS(device)
MSL_AIR_ATOMICS(threadgroup)
#undef MSL_AIR_ATOMICS
#undef MSL_AIR_FETCH
MSL_FN void atomic_thread_fence(mem_flags flags, memory_order order = memory_order_seq_cst,
                                thread_scope = thread_scope_device) {
  air::atomic_fence(static_cast<uint>(flags), order, air::kDeviceScope);
}
#undef MSL_AIR

}  // namespace metal
