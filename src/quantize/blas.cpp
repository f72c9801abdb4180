#include "quantize/blas.h"

#include <cblas.h>

#include <mutex>

extern "C" {
void spotrf_(const char* uplo, const int* n, float* a, const int* lda, int* info);
void spotri_(const char* uplo, const int* n, float* a, const int* lda, int* info);
void dpotrf_(const char* uplo, const int* n, double* a, const int* lda, int* info);
void dpotri_(const char* uplo, const int* n, double* a, const int* lda, int* info);
}

namespace metal_marlin::blas {
namespace {

// Threads are ours: BLAS' own would make results depend on their number.
void use_one_thread() {
  static std::once_flag once;
  std::call_once(once, [] { openblas_set_num_threads(1); });
}

int to_int(std::int64_t n) {
  return static_cast<int>(n);
}

void factor(const int* n, float* a, int* info) {
  spotrf_("L", n, a, n, info);
}
void factor(const int* n, double* a, int* info) {
  dpotrf_("L", n, a, n, info);
}
void invert(const int* n, float* a, int* info) {
  spotri_("L", n, a, n, info);
}
void invert(const int* n, double* a, int* info) {
  dpotri_("L", n, a, n, info);
}

// LAPACK's lower half of columns is the upper half of rows; its L with L L^T = A is our U.
template <typename T>
bool inverse_factor_of(std::int64_t size, T* matrix) {
  use_one_thread();
  const int n = to_int(size);
  int info = 0;
  factor(&n, matrix, &info);
  if (info == 0) invert(&n, matrix, &info);
  if (info == 0) factor(&n, matrix, &info);
  return info == 0;
}

}  // namespace

void multiply_transposed(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
                         std::int64_t stride, float* c, std::int64_t c_stride) {
  use_one_thread();
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, to_int(m), to_int(n), to_int(k), 1, a, to_int(stride), b,
              to_int(stride), 1, c, to_int(c_stride));
}

void subtract_product(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t a_stride,
                      const float* b, std::int64_t b_stride, float* c, std::int64_t c_stride) {
  use_one_thread();
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, to_int(m), to_int(n), to_int(k), -1, a, to_int(a_stride), b,
              to_int(b_stride), 1, c, to_int(c_stride));
}

void subtract_product(std::int64_t m, std::int64_t n, std::int64_t k, const double* a, std::int64_t a_stride,
                      const double* b, std::int64_t b_stride, double* c, std::int64_t c_stride) {
  use_one_thread();
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, to_int(m), to_int(n), to_int(k), -1, a, to_int(a_stride), b,
              to_int(b_stride), 1, c, to_int(c_stride));
}

void multiply_symmetric(std::int64_t m, std::int64_t n, const float* a, const float* b, float* c) {
  use_one_thread();
  cblas_ssymm(CblasRowMajor, CblasRight, CblasLower, to_int(m), to_int(n), 1, b, to_int(n), a, to_int(n), 0, c,
              to_int(n));
}

bool inverse_factor(std::int64_t n, float* matrix) {
  return inverse_factor_of(n, matrix);
}
bool inverse_factor(std::int64_t n, double* matrix) {
  return inverse_factor_of(n, matrix);
}

}  // namespace metal_marlin::blas
