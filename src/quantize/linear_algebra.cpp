#include "quantize/linear_algebra.h"

#include <string_view>

#include "backends/cpu/kernels.h"
#include "quantize/linear_algebra_table.h"

namespace metal_marlin::linear_algebra {

extern const Table kPlainTable;
#if defined(__x86_64__)
extern const Table kAvx2Table;
extern const Table kAvx512Table;
#endif

namespace {

// For what the processor can do, as the CPU backend found it.
const Table& table() {
#if defined(__x86_64__)
  static const Table& best = [&]() -> const Table& {
    const std::string_view name = cpu::available_kernels().front()->name;
    return name.starts_with("avx512") ? kAvx512Table : name == "avx2" ? kAvx2Table : kPlainTable;
  }();
  return best;
#else
  return kPlainTable;
#endif
}

}  // namespace

void multiply_transposed(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
                         std::int64_t stride, float* c, std::int64_t c_stride) {
  table().multiply_transposed(m, n, k, a, b, stride, c, c_stride);
}

void subtract_product(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t a_stride,
                      const float* b, std::int64_t b_stride, float* c, std::int64_t c_stride) {
  table().subtract_product_f32(m, n, k, a, a_stride, b, b_stride, c, c_stride);
}
void subtract_product(std::int64_t m, std::int64_t n, std::int64_t k, const double* a, std::int64_t a_stride,
                      const double* b, std::int64_t b_stride, double* c, std::int64_t c_stride) {
  table().subtract_product_f64(m, n, k, a, a_stride, b, b_stride, c, c_stride);
}

void multiply_symmetric(std::int64_t m, std::int64_t n, const float* a, const float* b, float* c) {
  table().multiply_symmetric(m, n, a, b, c);
}

void subtract_product_transposed(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, std::int64_t a_stride,
                                 const float* b, std::int64_t b_stride, float* c, std::int64_t c_stride) {
  table().f32.subtract_product_transposed(m, n, k, a, a_stride, b, b_stride, c, c_stride);
}
void subtract_product_transposed(std::int64_t m, std::int64_t n, std::int64_t k, const double* a, std::int64_t a_stride,
                                 const double* b, std::int64_t b_stride, double* c, std::int64_t c_stride) {
  table().f64.subtract_product_transposed(m, n, k, a, a_stride, b, b_stride, c, c_stride);
}

bool cholesky(std::int64_t n, float* matrix, std::int64_t stride) {
  return table().f32.cholesky(n, matrix, stride);
}
bool cholesky(std::int64_t n, double* matrix, std::int64_t stride) {
  return table().f64.cholesky(n, matrix, stride);
}

void solve_transposed(std::int64_t m, std::int64_t n, const float* l, std::int64_t l_stride, float* x,
                      std::int64_t x_stride) {
  table().f32.solve_transposed(m, n, l, l_stride, x, x_stride);
}
void solve_transposed(std::int64_t m, std::int64_t n, const double* l, std::int64_t l_stride, double* x,
                      std::int64_t x_stride) {
  table().f64.solve_transposed(m, n, l, l_stride, x, x_stride);
}

void invert_lower(std::int64_t n, float* l, std::int64_t stride) {
  table().f32.invert_lower(n, l, stride);
}
void invert_lower(std::int64_t n, double* l, std::int64_t stride) {
  table().f64.invert_lower(n, l, stride);
}

}  // namespace metal_marlin::linear_algebra
