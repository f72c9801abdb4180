// The functions of linear_algebra.h for one instruction set.
#pragma once

#include <cstdint>

namespace metal_marlin::linear_algebra {

template <typename T>
struct Triangular {
  void (*subtract_product_transposed)(std::int64_t m, std::int64_t n, std::int64_t k, const T* a, std::int64_t a_stride,
                                      const T* b, std::int64_t b_stride, T* c, std::int64_t c_stride);
  bool (*cholesky)(std::int64_t n, T* matrix, std::int64_t stride);
  void (*solve_transposed)(std::int64_t m, std::int64_t n, const T* l, std::int64_t l_stride, T* x,
                           std::int64_t x_stride);
  void (*invert_lower)(std::int64_t n, T* l, std::int64_t stride);
};

struct Table {
  void (*multiply_transposed)(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
                              std::int64_t stride, float* c, std::int64_t c_stride);
  void (*subtract_product_f32)(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t a_stride,
                               const float* b, std::int64_t b_stride, float* c, std::int64_t c_stride);
  void (*subtract_product_f64)(std::int64_t m, std::int64_t n, std::int64_t k, const double* a, std::int64_t a_stride,
                               const double* b, std::int64_t b_stride, double* c, std::int64_t c_stride);
  void (*multiply_symmetric)(std::int64_t m, std::int64_t n, const float* a, const float* b, float* c);
  Triangular<float> f32;
  Triangular<double> f64;
};

}  // namespace metal_marlin::linear_algebra
