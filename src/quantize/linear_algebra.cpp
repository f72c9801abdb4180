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

bool inverse_factor(std::int64_t n, float* matrix) {
  return table().inverse_factor_f32(n, matrix);
}
bool inverse_factor(std::int64_t n, double* matrix) {
  return table().inverse_factor_f64(n, matrix);
}

}  // namespace metal_marlin::linear_algebra
