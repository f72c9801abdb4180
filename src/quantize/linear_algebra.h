// The few matrix functions that quantizers use, on row-major matrices, by Eigen compiled for several
// instruction sets. Each runs on the calling thread alone.
#pragma once

#include <cstdint>

namespace metal_marlin::linear_algebra {

// c [m][n] += a^T b, of a [k][m] and b [k][n], whose rows are `stride` elements apart.
void multiply_transposed(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
                         std::int64_t stride, float* c, std::int64_t c_stride);
// c [m][n] -= a b, of a [m][k] and b [k][n].
void subtract_product(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t a_stride,
                      const float* b, std::int64_t b_stride, float* c, std::int64_t c_stride);
void subtract_product(std::int64_t m, std::int64_t n, std::int64_t k, const double* a, std::int64_t a_stride,
                      const double* b, std::int64_t b_stride, double* c, std::int64_t c_stride);

// c [m][n] = a b, of a [m][n] and a symmetric b [n][n] of which the lower half is read.
void multiply_symmetric(std::int64_t m, std::int64_t n, const float* a, const float* b, float* c);

// c [m][n] -= a b^T, of a [m][k] and b [n][k].
void subtract_product_transposed(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t a_stride,
                                 const float* b, std::int64_t b_stride, float* c, std::int64_t c_stride);
void subtract_product_transposed(std::int64_t m, std::int64_t n, std::int64_t k, const double* a, std::int64_t a_stride,
                                 const double* b, std::int64_t b_stride, double* c, std::int64_t c_stride);

// Of triangular matrices [n][n] the lower half is read and written. A symmetric matrix becomes its Cholesky
// factor; false: it is not positive definite.
bool cholesky(std::int64_t n, float* matrix, std::int64_t stride);
bool cholesky(std::int64_t n, double* matrix, std::int64_t stride);
// x [m][n] becomes x L^-T.
void solve_transposed(std::int64_t m, std::int64_t n, const float* l, std::int64_t l_stride, float* x,
                      std::int64_t x_stride);
void solve_transposed(std::int64_t m, std::int64_t n, const double* l, std::int64_t l_stride, double* x,
                      std::int64_t x_stride);
// L becomes its inverse.
void invert_lower(std::int64_t n, float* l, std::int64_t stride);
void invert_lower(std::int64_t n, double* l, std::int64_t stride);

}  // namespace metal_marlin::linear_algebra
