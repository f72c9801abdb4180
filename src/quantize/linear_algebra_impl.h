// linear_algebra.h for one instruction set: the file that includes this has renamed Eigen, so that no
// two of them share code.
#pragma once

#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>

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

// L becomes its inverse, in place, by halves: the blocks on the diagonal become theirs, and the one
// below -C^-1 B A^-1.
template <typename T>
void invert_lower(std::int64_t n, T* l, std::int64_t stride) {
  constexpr std::int64_t kSmall = 32;
  const Eigen::OuterStride<> rows(stride);
  if (n <= kSmall) {
    for (std::int64_t j = 0; j < n; ++j) {
      l[j * stride + j] = 1 / l[j * stride + j];
      for (std::int64_t i = j + 1; i < n; ++i) {
        T sum = 0;
        for (std::int64_t k = j; k < i; ++k) sum += l[i * stride + k] * l[k * stride + j];
        l[i * stride + j] = -sum / l[i * stride + i];
      }
    }
    return;
  }
  const std::int64_t half = n / 2;
  invert_lower(half, l, stride);
  invert_lower(n - half, l + half * stride + half, stride);
  View<T> below(l + half * stride, n - half, half, rows);
  const View<T> before(l, half, half, rows);
  const View<T> after(l + half * stride + half, n - half, n - half, rows);
  const Matrix<T> product = below * before.template triangularView<Eigen::Lower>();
  below.noalias() = -(after.template triangularView<Eigen::Lower>() * product);
}

// With its rows and columns in reverse order the matrix is L L^T; L's inverse, put back in order, is U.
// To reverse both is to reverse all elements.
template <typename T>
bool inverse_factor_impl(std::int64_t n, T* matrix) {
  std::reverse(matrix, matrix + n * n);
  View<T> view(matrix, n, n, Eigen::OuterStride<>(n));
  Eigen::Ref<Matrix<T>, 0, Eigen::OuterStride<>> in_place(view);
  const Eigen::LLT<Eigen::Ref<Matrix<T>, 0, Eigen::OuterStride<>>, Eigen::Lower> factor(in_place);
  if (factor.info() != Eigen::Success) return false;
  invert_lower(n, matrix, n);
  std::reverse(matrix, matrix + n * n);
  for (std::int64_t i = 0; i < n; ++i) {
    if (!(matrix[i * n + i] > 0)) return false;  // NaN too
  }
  return true;
}

constexpr Table make_table() {
  return {multiply_transposed_impl, subtract_product_impl<float>, subtract_product_impl<double>,
          multiply_symmetric_impl,  inverse_factor_impl<float>,   inverse_factor_impl<double>};
}

}  // namespace
}  // namespace metal_marlin::linear_algebra
