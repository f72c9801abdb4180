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

// Of a symmetric matrix [n][n] the upper half becomes U with U^T U = the inverse; the lower half is
// left as it happens to be. False: the matrix is not positive definite.
bool inverse_factor(std::int64_t n, float* matrix);
bool inverse_factor(std::int64_t n, double* matrix);

}  // namespace metal_marlin::linear_algebra
