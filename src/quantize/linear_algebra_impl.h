// linear_algebra.h for one instruction set: the file that includes this has renamed Eigen, so that no
// two of them share code.
#pragma once

#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Cholesky>
#include <Eigen/Core>

#include "quantize/linear_algebra_table.h"

namespace metal_marlin::linear_algebra {
namespace {

template <typename T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <typename T>
using View = Eigen::Map<Matrix<T>, 0, Eigen::OuterStride<>>;
template <typename T>
using ConstView = Eigen::Map<const Matrix<T>, 0, Eigen::OuterStride<>>;

void multiply_transposed_impl(std::int64_t m, std::int64_t n, std::int64_t k, const float* a, const float* b,
                              std::int64_t stride, float* c, std::int64_t c_stride) {
  const Eigen::OuterStride<> rows(stride);
  View<float>(c, m, n, Eigen::OuterStride<>(c_stride)).noalias() +=
      ConstView<float>(a, k, m, rows).transpose() * ConstView<float>(b, k, n, rows);
}

template <typename T>
void subtract_product_impl(std::int64_t m, std::int64_t n, std::int64_t k, const T* a, std::int64_t a_stride,
                           const T* b, std::int64_t b_stride, T* c, std::int64_t c_stride) {
  View<T>(c, m, n, Eigen::OuterStride<>(c_stride)).noalias() -=
      ConstView<T>(a, m, k, Eigen::OuterStride<>(a_stride)) * ConstView<T>(b, k, n, Eigen::OuterStride<>(b_stride));
}

void multiply_symmetric_impl(std::int64_t m, std::int64_t n, const float* a, const float* b, float* c) {
  const Eigen::OuterStride<> rows(n);
  View<float>(c, m, n, rows).noalias() =
      ConstView<float>(a, m, n, rows) * ConstView<float>(b, n, n, rows).selfadjointView<Eigen::Lower>();
}

template <typename T>
void subtract_product_transposed_impl(std::int64_t m, std::int64_t n, std::int64_t k, const T* a, std::int64_t a_stride,
                                      const T* b, std::int64_t b_stride, T* c, std::int64_t c_stride) {
  View<T>(c, m, n, Eigen::OuterStride<>(c_stride)).noalias() -=
      ConstView<T>(a, m, k, Eigen::OuterStride<>(a_stride)) *
      ConstView<T>(b, n, k, Eigen::OuterStride<>(b_stride)).transpose();
}

template <typename T>
bool cholesky_impl(std::int64_t n, T* matrix, std::int64_t stride) {
  View<T> view(matrix, n, n, Eigen::OuterStride<>(stride));
  Eigen::Ref<Matrix<T>, 0, Eigen::OuterStride<>> in_place(view);
  const Eigen::LLT<Eigen::Ref<Matrix<T>, 0, Eigen::OuterStride<>>, Eigen::Lower> factor(in_place);
  return factor.info() == Eigen::Success;
}

template <typename T>
void solve_transposed_impl(std::int64_t m, std::int64_t n, const T* l, std::int64_t l_stride, T* x,
                           std::int64_t x_stride) {
  View<T> view(x, m, n, Eigen::OuterStride<>(x_stride));
  ConstView<T>(l, n, n, Eigen::OuterStride<>(l_stride))
      .transpose()
      .template triangularView<Eigen::Upper>()
      .template solveInPlace<Eigen::OnTheRight>(view);
}

template <typename T>
void invert_lower_impl(std::int64_t n, T* l, std::int64_t stride) {
  for (std::int64_t j = 0; j < n; ++j) {
    l[j * stride + j] = 1 / l[j * stride + j];
    for (std::int64_t i = j + 1; i < n; ++i) {
      T sum = 0;
      for (std::int64_t k = j; k < i; ++k) sum += l[i * stride + k] * l[k * stride + j];
      l[i * stride + j] = -sum / l[i * stride + i];
    }
  }
}

template <typename T>
constexpr Triangular<T> make_triangular() {
  return {subtract_product_transposed_impl<T>, cholesky_impl<T>, solve_transposed_impl<T>, invert_lower_impl<T>};
}

constexpr Table make_table() {
  return {multiply_transposed_impl, subtract_product_impl<float>, subtract_product_impl<double>,
          multiply_symmetric_impl,  make_triangular<float>(),     make_triangular<double>()};
}

}  // namespace
}  // namespace metal_marlin::linear_algebra
