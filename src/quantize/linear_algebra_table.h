// The functions of linear_algebra.h for one instruction set.
#pragma once

#include <cstdint>

namespace metal_marlin::linear_algebra {

struct Table {
  void (*multiply_transposed)(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
                              std::int64_t stride, float* c, std::int64_t c_stride);
  void (*subtract_product_f32)(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t a_stride,
                               const float* b, std::int64_t b_stride, float* c, std::int64_t c_stride);
  void (*subtract_product_f64)(std::int64_t m, std::int64_t n, std::int64_t k, const double* a, std::int64_t a_stride,
                               const double* b, std::int64_t b_stride, double* c, std::int64_t c_stride);
  void (*multiply_symmetric)(std::int64_t m, std::int64_t n, const float* a, const float* b, float* c);
  bool (*inverse_factor_f32)(std::int64_t n, float* matrix);
  bool (*inverse_factor_f64)(std::int64_t n, double* matrix);
};

}  // namespace metal_marlin::linear_algebra
