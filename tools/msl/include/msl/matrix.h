// Matrices of columns: floatCxR, halfCxR.
#pragma once

namespace metal {

template <typename T, int C, int R>
struct matrix {
  vec<T, R> columns[C];
  matrix() = default;
  explicit matrix(T diagonal) {
    for (int c = 0; c < C; ++c) {
      for (int r = 0; r < R; ++r) columns[c][r] = c == r ? diagonal : T(0);
    }
  }
  template <typename... Vs, typename = enable_if_t<sizeof...(Vs) == C - 1>>
  matrix(vec<T, R> first, Vs... rest) : columns{first, rest...} {}
  template <typename U, typename = enable_if_t<!is_same_v<T, U>>>
  explicit matrix(const matrix<U, C, R>& o) {
    for (int c = 0; c < C; ++c) {
      for (int r = 0; r < R; ++r) columns[c][r] = static_cast<T>(o.columns[c][r]);
    }
  }
  vec<T, R>& operator[](int c) { return columns[c]; }
  const vec<T, R>& operator[](int c) const { return columns[c]; }
  matrix operator+(const matrix& o) const {
    matrix m;
    for (int c = 0; c < C; ++c) m.columns[c] = columns[c] + o.columns[c];
    return m;
  }
  matrix operator-(const matrix& o) const {
    matrix m;
    for (int c = 0; c < C; ++c) m.columns[c] = columns[c] - o.columns[c];
    return m;
  }
  matrix operator*(T s) const {
    matrix m;
    for (int c = 0; c < C; ++c) m.columns[c] = columns[c] * s;
    return m;
  }
  vec<T, R> operator*(vec<T, C> v) const {
    vec<T, R> sum = columns[0] * v[0];
    for (int c = 1; c < C; ++c) sum += columns[c] * v[c];
    return sum;
  }
  template <int K>
  matrix<T, K, R> operator*(const matrix<T, K, C>& o) const {
    matrix<T, K, R> m;
    for (int k = 0; k < K; ++k) m.columns[k] = *this * o.columns[k];
    return m;
  }
};
template <typename T, int C, int R>
MSL_FN matrix<T, C, R> operator*(T s, const matrix<T, C, R>& m) {
  return m * s;
}
template <typename T, int C, int R>
MSL_FN matrix<T, R, C> transpose(const matrix<T, C, R>& m) {
  matrix<T, R, C> t;
  for (int c = 0; c < C; ++c) {
    for (int r = 0; r < R; ++r) t.columns[r][c] = m.columns[c][r];
  }
  return t;
}
template <typename T>
MSL_FN T determinant(const matrix<T, 2, 2>& m) {
  return m[0][0] * m[1][1] - m[1][0] * m[0][1];
}
template <typename T>
MSL_FN T determinant(const matrix<T, 3, 3>& m) {
  return dot(m[0], cross(m[1], m[2]));
}

}  // namespace metal

#define MSL_MATRICES(T)                  \
  using T##2x2 = metal::matrix<T, 2, 2>; \
  using T##2x3 = metal::matrix<T, 2, 3>; \
  using T##2x4 = metal::matrix<T, 2, 4>; \
  using T##3x2 = metal::matrix<T, 3, 2>; \
  using T##3x3 = metal::matrix<T, 3, 3>; \
  using T##3x4 = metal::matrix<T, 3, 4>; \
  using T##4x2 = metal::matrix<T, 4, 2>; \
  using T##4x3 = metal::matrix<T, 4, 3>; \
  using T##4x4 = metal::matrix<T, 4, 4>;
MSL_MATRICES(float)
MSL_MATRICES(half)
MSL_MATRICES(bfloat)
#undef MSL_MATRICES
