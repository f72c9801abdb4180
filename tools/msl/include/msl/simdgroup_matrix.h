// 8x8 matrices spread over a simdgroup, two neighbours of a row in each lane.
// The lane order is the one that Apple's GPUs are believed to use; code that
// depends on it must probe. The host executor can hold them in another order.
#pragma once

#ifndef MSL_TARGET_PTX
// The same as long as a kernel runs.
extern "C" __attribute__((const)) uint32_t msl_matrix_lane_mask();
extern "C" __attribute__((const)) uint32_t msl_flush_subnormals();
#endif

namespace metal {

MSL_FN uint msl_matrix_mask() {
#ifdef MSL_TARGET_PTX
  return 0;
#else
  return msl_matrix_lane_mask();
#endif
}
MSL_FN uint msl_matrix_row(uint lane) {
  lane ^= msl_matrix_mask();
  return (lane >> 2 & 4) + (lane >> 1 & 3);
}
MSL_FN uint msl_matrix_column(uint lane) {
  lane ^= msl_matrix_mask();
  return (lane >> 2 & 2) * 2 + (lane & 1) * 2;
}
MSL_FN uint msl_matrix_lane(uint row, uint column) {
  return ((row >> 2) << 4 | (column >> 2) << 3 | (row & 3) << 1 | (column >> 1 & 1)) ^ msl_matrix_mask();
}

// The language's storage is a vector of 64 elements, of which a lane has the first two. Where kernels
// run, no more than these two are kept.
#ifdef MSL_STRICT
template <typename T>
using msl_matrix_storage = vec<T, 64>;
#else
template <typename T>
struct alignas(2 * sizeof(T)) msl_matrix_storage {
  T e[2];
  MSL_INLINE thread T& operator[](uint i) { return e[i]; }
  MSL_INLINE T operator[](uint i) const { return e[i]; }
};
#endif

template <typename T, int R, int C>
struct simdgroup_matrix {
  static_assert(R == 8 && C == 8, "simdgroup matrices are 8x8");
  using storage_type = msl_matrix_storage<T>;
  storage_type msl_elements;
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T diagonal) {
    const uint lane = msl_lane();
    for (uint i = 0; i < 2; ++i)
      msl_elements[i] = msl_matrix_row(lane) == msl_matrix_column(lane) + i ? diagonal : T(0);
  }
  MSL_INLINE thread storage_type& thread_elements() { return msl_elements; }
  MSL_INLINE const thread storage_type& thread_elements() const { return msl_elements; }
};
using simdgroup_float8x8 = simdgroup_matrix<float, 8, 8>;
using simdgroup_half8x8 = simdgroup_matrix<half, 8, 8>;
using simdgroup_bfloat8x8 = simdgroup_matrix<bfloat, 8, 8>;

template <typename T, int R, int C = R>
MSL_FN simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T v) {
  simdgroup_matrix<T, R, C> m;
  m.msl_elements[0] = m.msl_elements[1] = v;
  return m;
}

#define MSL_MATRIX_MEMORY(SPACE)                                                                               \
  template <typename T>                                                                                        \
  MSL_FN MSL_SYNC void simdgroup_load(thread simdgroup_matrix<T, 8, 8>& m, const SPACE T* p, ulong stride = 8, \
                                      ulong2 origin = ulong2{0, 0}, bool transposed = false) {                 \
    const uint lane = msl_lane(), row = msl_matrix_row(lane), column = msl_matrix_column(lane);                \
    p += origin[1] * stride + origin[0];                                                                       \
    for (uint i = 0; i < 2; ++i)                                                                               \
      m.msl_elements[i] = transposed ? p[(column + i) * stride + row] : p[row * stride + column + i];              \
  }                                                                                                            \
  template <typename T>                                                                                        \
  MSL_FN MSL_SYNC void simdgroup_store(simdgroup_matrix<T, 8, 8> m, SPACE T* p, ulong stride = 8,              \
                                       ulong2 origin = ulong2{0, 0}, bool transposed = false) {                \
    const uint lane = msl_lane(), row = msl_matrix_row(lane), column = msl_matrix_column(lane);                \
    p += origin[1] * stride + origin[0];                                                                       \
    for (uint i = 0; i < 2; ++i) {                                                                             \
      if (transposed) {                                                                                        \
        p[(column + i) * stride + row] = m.msl_elements[i];                                                        \
      } else {                                                                                                 \
        p[row * stride + column + i] = m.msl_elements[i];                                                          \
      }                                                                                                        \
    }                                                                                                          \
  }
MSL_MATRIX_MEMORY(device)
MSL_MATRIX_MEMORY(threadgroup)
#undef MSL_MATRIX_MEMORY
template <typename T>
MSL_FN MSL_SYNC void simdgroup_load(thread simdgroup_matrix<T, 8, 8>& m, constant T* p, ulong stride = 8,
                                    ulong2 origin = ulong2{0, 0}, bool transposed = false) {
  const uint lane = msl_lane(), row = msl_matrix_row(lane), column = msl_matrix_column(lane);
  p += origin[1] * stride + origin[0];
  for (uint i = 0; i < 2; ++i)
    m.msl_elements[i] = transposed ? p[(column + i) * stride + row] : p[row * stride + column + i];
}

// What the matrix unit multiplies: the host executor can take subnormal halves for zeros.
MSL_FN bool msl_flushes() {
#ifdef MSL_TARGET_PTX
  return false;
#else
  return msl_flush_subnormals() != 0;
#endif
}
template <typename T>
MSL_FN float msl_factor(T v, bool flushes) {
  const float x = static_cast<float>(v);
  return is_same_v<T, half> && flushes && x > -0x1p-14f && x < 0x1p-14f ? 0.0f : x;
}

// d = a b + c, products and sums in float, rounded once to d's type.
template <typename D, typename A, typename B, typename C>
MSL_FN MSL_SYNC void simdgroup_multiply_accumulate(thread simdgroup_matrix<D, 8, 8>& d, simdgroup_matrix<A, 8, 8> a,
                                                   simdgroup_matrix<B, 8, 8> b, simdgroup_matrix<C, 8, 8> c) {
  struct Pair {
    vec<A, 2> a;
    vec<B, 2> b;
  };
  const Pair mine = {{a.msl_elements[0], a.msl_elements[1]}, {b.msl_elements[0], b.msl_elements[1]}};
  const auto all = msl_exchange_value(mine);
  const uint lane = msl_lane(), row = msl_matrix_row(lane), column = msl_matrix_column(lane);
  float sum[2] = {static_cast<float>(c.msl_elements[0]), static_cast<float>(c.msl_elements[1])};
  const bool flushes = msl_flushes();
  for (uint k = 0; k < 8; ++k) {
    const vec<A, 2> left = all.from(msl_matrix_lane(row, k)).a;
    const vec<B, 2> right = all.from(msl_matrix_lane(k, column)).b;
    const float x = msl_factor((k & 1) ? left[1] : left[0], flushes);
    sum[0] += x * msl_factor(right[0], flushes);
    sum[1] += x * msl_factor(right[1], flushes);
  }
  d.msl_elements[0] = static_cast<D>(sum[0]);
  d.msl_elements[1] = static_cast<D>(sum[1]);
}
template <typename D, typename A, typename B>
MSL_FN MSL_SYNC void simdgroup_multiply(thread simdgroup_matrix<D, 8, 8>& d, simdgroup_matrix<A, 8, 8> a,
                                        simdgroup_matrix<B, 8, 8> b) {
  simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<D, 8, 8>(D(0)));
}
template <typename T>
MSL_FN MSL_SYNC simdgroup_matrix<T, 8, 8> operator*(simdgroup_matrix<T, 8, 8> a, simdgroup_matrix<T, 8, 8> b) {
  simdgroup_matrix<T, 8, 8> d;
  simdgroup_multiply(d, a, b);
  return d;
}

}  // namespace metal
