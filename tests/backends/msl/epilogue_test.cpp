// Activations, gated pairs, residuals, norms and picked rows on every executor
// against double.
#include "backends/msl/epilogue.h"

#include <cmath>

#include "backends/linear_cases.h"
#include "backends/msl/executors.h"
#include "backends/msl/typed_data.h"

namespace metal_marlin::msl {
namespace {

class Epilogue : public OnExecutor {};
INSTANTIATE_TEST_SUITE_P(Executor, Epilogue, testing::ValuesIn(executors()), executor_name);

constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBf16};
constexpr Activation kActivations[] = {Activation::kNone, Activation::kSilu, Activation::kGeluTanh, Activation::kGelu,
                                       Activation::kRelu};

double activated(Activation kind, double v) {
  switch (kind) {
    case Activation::kNone: break;
    case Activation::kSilu: return v / (1 + std::exp(-v));
    case Activation::kGeluTanh: return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    case Activation::kGelu: return 0.5 * v * std::erfc(-v / std::sqrt(2.0));
    case Activation::kRelu: return std::max(v, 0.0);
  }
  return v;
}

void expect_near(float found, double expected, double size, double unit, const char* what) {
  if (std::isnan(expected)) {
    EXPECT_TRUE(std::isnan(found)) << what;
  } else if (std::isinf(expected)) {
    EXPECT_EQ(found, expected) << what;
  } else {
    EXPECT_NEAR(found, expected, size * 0x1p-21 + std::fabs(expected) * unit + 1e-7) << what;
  }
}

TEST_P(Epilogue, BiasAndActivation) {
  constexpr std::int64_t kRows = 5;
  constexpr std::int64_t kCols = 131;
  for (const DType type : kTypes) {
    for (const Activation activation : kActivations) {
      auto values = normal_data(kRows * kCols, 1, 3);
      values[0] = std::nanf("");
      values[1] = INFINITY;
      values[2] = -1e4F;
      values[3] = 1e4F;
      const TypedData y(type, values);
      const auto bias = normal_data(kCols, 2);
      const auto buffer = device->allocate_with(y.bytes);
      const auto bias_buffer = device->allocate_with(bias);
      run([&](Commands& c) {
        encode_epilogue(*device, c, type, kRows, kCols, *buffer, bias_buffer.get(), activation);
      });
      const TypedData found(type, *buffer);
      for (std::size_t i = 0; i < y.values.size(); ++i) {
        const double v = static_cast<double>(y.values[i]) + bias[i % kCols];
        expect_near(found.values[i], activated(activation, v), 1 + std::fabs(v), found.unit(), dtype_name(type).data());
      }
    }
  }
}

// The whole range of the exact GELU's two polynomials, and beyond.
TEST_P(Epilogue, GeluIsExactEverywhere) {
  std::vector<float> x;
  for (float v = -14; v <= 14; v += few_shapes() ? 0.37F : 0.0037F) x.push_back(v);
  const auto buffer = device->allocate_with(x);
  run([&](Commands& c) {
    encode_epilogue(*device, c, DType::kF32, 1, static_cast<std::int64_t>(x.size()), *buffer, nullptr,
                    Activation::kGelu);
  });
  const TypedData found(DType::kF32, *buffer);
  for (std::size_t i = 0; i < x.size(); ++i)
    ASSERT_NEAR(found.values[i], activated(Activation::kGelu, x[i]), 4e-7 * (1 + std::fabs(x[i]))) << x[i];
}

// And SiLU far below zero, where its relative error is exp's.
TEST_P(Epilogue, SiluKeepsItsRelativeError) {
  std::vector<float> x;
  for (float v = -85; v <= 85; v += few_shapes() ? 1.7F : 0.017F) x.push_back(v);
  const auto buffer = device->allocate_with(x);
  run([&](Commands& c) {
    encode_epilogue(*device, c, DType::kF32, 1, static_cast<std::int64_t>(x.size()), *buffer, nullptr,
                    Activation::kSilu);
  });
  const TypedData found(DType::kF32, *buffer);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = activated(Activation::kSilu, x[i]);
    ASSERT_NEAR(found.values[i], expected, std::fabs(expected) * 8 * 0x1p-23) << x[i];
  }
}

TEST_P(Epilogue, GatedPairsAndResiduals) {
  for (const DType type : kTypes) {
    for (const std::size_t n : {std::size_t{1}, std::size_t{777}}) {
      const TypedData gate(type, normal_data(n, 3, 2));
      const TypedData up(type, normal_data(n, 4));
      const auto g = device->allocate_with(gate.bytes);
      const auto u = device->allocate_with(up.bytes);
      const auto out = device->allocate(gate.bytes.size());
      const auto x = device->allocate_with(up.bytes);
      run([&](Commands& c) {
        encode_gated(*device, c, type, static_cast<std::int64_t>(n), gate_params(GateActivation::kSilu), *g, *u, *out);
        encode_residual(*device, c, type, static_cast<std::int64_t>(n), *x, *out);
      });
      const TypedData found(type, *out);
      const TypedData sum(type, *x);
      for (std::size_t i = 0; i < n; ++i) {
        const double expected = activated(Activation::kSilu, gate.values[i]) * up.values[i];
        expect_near(found.values[i], expected, std::fabs(expected), found.unit(), "gated");
        expect_near(sum.values[i], static_cast<double>(up.values[i]) + found.values[i], 0, found.unit(), "residual");
      }
    }
  }
}

// More elements than threads.
TEST_P(Epilogue, ThreadsTakeElementsInTurn) {
  if (few_shapes()) return;
  const auto n = static_cast<std::size_t>(busy_threads(1LL << 40)) + 77;
  const auto x = normal_data(n, 3);
  const auto y = normal_data(n, 4);
  const auto x_buffer = device->allocate_with(x);
  const auto y_buffer = device->allocate_with(y);
  const auto out = device->allocate(n * sizeof(float));
  run([&](Commands& c) {
    encode_gated(*device, c, DType::kF32, static_cast<std::int64_t>(n), GateParams{}, *x_buffer, *y_buffer, *out);
    encode_residual(*device, c, DType::kF32, static_cast<std::int64_t>(n), *x_buffer, *y_buffer);
  });
  const TypedData products(DType::kF32, *out);
  const TypedData sums(DType::kF32, *x_buffer);
  for (std::size_t i = 0; i < n; ++i) {
    ASSERT_EQ(products.values[i], x[i] * y[i]) << i;
    ASSERT_EQ(sums.values[i], x[i] + y[i]) << i;
  }
}

TEST_P(Epilogue, RmsNorm) {
  for (const DType type : kTypes) {
    for (const std::int64_t width : {1, 33, 128, 1000}) {
      constexpr std::int64_t kRuns = 3;
      auto values = normal_data(static_cast<std::size_t>(kRuns * width), 5, 4);
      std::fill_n(values.begin(), width, 0.0F);  // a run of zeros stays one
      const TypedData x(type, values);
      const auto weight = normal_data(static_cast<std::size_t>(width), 6);
      const auto buffer = device->allocate_with(x.bytes);
      const auto w = device->allocate_with(weight);
      run([&](Commands& c) { encode_rms_norm(*device, c, type, kRuns, width, 1e-6F, *buffer, *w, *buffer); });
      const TypedData found(type, *buffer);
      for (std::int64_t r = 0; r < kRuns; ++r) {
        double squares = 0;
        for (std::int64_t i = 0; i < width; ++i)
          squares += std::pow(x.values[static_cast<std::size_t>(r * width + i)], 2);
        const double factor = 1 / std::sqrt(squares / static_cast<double>(width) + 1e-6F);
        for (std::int64_t i = 0; i < width; ++i) {
          const auto at = static_cast<std::size_t>(r * width + i);
          const double expected = x.values[at] * factor * weight[static_cast<std::size_t>(i)];
          expect_near(found.values[at], expected, 4 * std::fabs(expected), found.unit(), "norm");
        }
      }
    }
  }
}

// Rows prepared for products: what is multiplied, times the row's factor, is the row, to the type's rounding;
// rows and columns that fill up are zeros.
class Prepared {
 public:
  Prepared(Device& device, DType type, std::int64_t rows, std::int64_t cols)
      : workspace(device, rows, cols, 1), type_(type), rows_((rows + 7) / 8 * 8), stride_((cols + 63) / 64 * 64) {
    // What stood there before.
    std::vector<float> old(static_cast<std::size_t>(rows_ * stride_ / 2 + 1), 7.0F);
    workspace.activations().upload(std::as_bytes(std::span(old).first(static_cast<std::size_t>(rows_ * stride_ / 2))));
  }
  void expect(const std::vector<double>& values, std::int64_t rows, std::int64_t cols) const {
    const TypedData found(type_, workspace.activations());
    const TypedData factors(DType::kF32, workspace.factors());
    for (std::int64_t r = 0; r < rows_; ++r) {
      const double factor = factors.values[static_cast<std::size_t>(r)];
      double largest = 0;
      for (std::int64_t c = 0; c < stride_; ++c) {
        const bool there = r < rows && c < cols;
        const double expected = there ? values[static_cast<std::size_t>(r * cols + c)] : 0;
        const double value = found.values[static_cast<std::size_t>(r * stride_ + c)] * factor;
        largest = std::max(largest, std::fabs(expected));
        ASSERT_NEAR(value, expected, std::fabs(expected) * (found.unit() + 0x1p-20) + largest * 0x1p-38)
            << "row " << r << " column " << c;
      }
      int exponent = 0;
      EXPECT_EQ(std::frexp(factor, &exponent), 0.5) << "a power of two";
      if (type_ == DType::kF16 && largest > 0) {
        EXPECT_GE(largest / factor, 0x1p13);
        EXPECT_LT(largest / factor, 0x1p15);
      }
    }
  }
  LinearWorkspace workspace;

 private:
  DType type_;
  std::int64_t rows_;
  std::int64_t stride_;
};

TEST_P(Epilogue, MakesRowsReady) {
  constexpr std::int64_t kRows = 3;
  constexpr float kEps = 1e-5F;
  for (const DType type : {DType::kF16, DType::kBf16}) {
    for (const std::int64_t cols : {1, 64, 130, 1000}) {
      const auto count = static_cast<std::size_t>(kRows * cols);
      auto x = normal_data(count, 8, 1e6F);                                                     // more than half holds
      for (std::int64_t c = 0; c < cols; ++c) x[static_cast<std::size_t>(cols + c)] *= 1e-14F;  // and less
      const auto up = normal_data(count, 9);
      const auto weight = normal_data(static_cast<std::size_t>(cols), 10);
      const auto x_buffer = device->allocate_with(x);
      const auto up_buffer = device->allocate_with(up);
      const auto weight_buffer = device->allocate_with(weight);
      const auto out = device->allocate(count * sizeof(float));
      const Prepared plain(*device, type, kRows, cols);
      const Prepared norm(*device, type, kRows, cols);
      const Prepared gated(*device, type, kRows, cols);
      const auto out_2 = device->allocate(count * sizeof(float));
      run([&](Commands& c) {
        encode_prepare(*device, c, type, kRows, cols, cols, *x_buffer, plain.workspace);
        encode_prepare_norm(*device, c, type, kRows, cols, kEps, *x_buffer, *weight_buffer, *out, norm.workspace);
        encode_prepare_gated(*device, c, type, kRows, cols, gate_params(GateActivation::kSilu), *up_buffer, *x_buffer,
                             *out_2, gated.workspace);
      });
      plain.expect({x.begin(), x.end()}, kRows, cols);
      std::vector<double> normed(count);
      std::vector<double> products(count);
      for (std::size_t r = 0; r < kRows; ++r) {
        const auto width = static_cast<std::size_t>(cols);
        double squares = 0;
        for (std::size_t i = r * width; i < (r + 1) * width; ++i) squares += std::pow(static_cast<double>(x[i]), 2);
        const double factor = 1 / std::sqrt(squares / static_cast<double>(cols) + kEps);
        for (std::size_t i = r * width; i < (r + 1) * width; ++i) {
          normed[i] = x[i] * factor * weight[i - r * width];
          products[i] = activated(Activation::kSilu, up[i]) * x[i];
        }
      }
      norm.expect(normed, kRows, cols);
      gated.expect(products, kRows, cols);
      const TypedData kept(DType::kF32, *out);
      const TypedData kept_2(DType::kF32, *out_2);
      for (std::size_t i = 0; i < count; ++i) {
        expect_near(kept.values[i], normed[i], 4 * std::fabs(normed[i]), 0x1p-23, "norm");
        expect_near(kept_2.values[i], products[i], 4 * std::fabs(products[i]), 0x1p-23, "gated");
      }
    }
  }
}

TEST_P(Epilogue, SelectsRows) {
  const TypedData in(DType::kBf16, normal_data(7 * 37, 7));
  const std::vector<std::int32_t> rows = {6, 0, 3, 3};
  const auto buffer = device->allocate_with(in.bytes);
  const auto r = device->allocate_with(rows);
  const auto out = device->allocate(rows.size() * 37 * 2);
  run([&](Commands& c) { encode_select_rows(*device, c, DType::kBf16, 4, 37, *buffer, *r, *out); });
  const TypedData found(DType::kBf16, *out);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t k = 0; k < 37; ++k)
      ASSERT_EQ(found.values[i * 37 + k], in.values[static_cast<std::size_t>(rows[i]) * 37 + k]);
  }
}

}  // namespace
}  // namespace metal_marlin::msl
