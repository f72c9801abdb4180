// GPTQ against a plain column-by-column solver in double, and what it gains over rounding to nearest.
#include "quantize/gptq.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <random>

#include "formats/codec.h"
#include "formats/group_scale.h"
#include "formats/sparsity.h"
#include "metal_marlin/error.h"
#include "test_data.h"
#include "test_pool.h"

namespace metal_marlin {
namespace {

// A layer with inputs that depend on one another and are of different sizes.
struct Problem {
  Problem(std::int64_t r, std::int64_t c, unsigned seed) : rows(r), cols(c), hessian(c) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const auto n = static_cast<std::size_t>(cols);
    std::vector<float> mix(n * n);
    for (float& v : mix) v = normal(random);
    for (std::int64_t sample = 0; sample < 3 * cols; ++sample) {
      std::vector<float> z(n);
      std::vector<float> x(n);
      for (float& v : z) v = normal(random);
      for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t j = 0; j < n; ++j) x[i] += 0.2F * mix[i * n + j] * z[j];
        x[i] = (x[i] + z[i]) * (1 + 2 * static_cast<float>(i % 7 == 0));
      }
      samples.insert(samples.end(), x.begin(), x.end());
    }
    hessian.add(samples.data(), 3 * cols, test_pool());
    weights.resize(static_cast<std::size_t>(rows) * n);
    for (float& v : weights) v = normal(random);
  }
  [[nodiscard]] RowReader reader() const {
    return [this](std::int64_t row, float* out) { std::copy_n(weights.begin() + row * cols, cols, out); };
  }
  std::int64_t rows;
  std::int64_t cols;
  HessianSum hessian;
  std::vector<float> samples;
  std::vector<float> weights;
};

float global_of(const FormatSpec& spec, const Problem& p) {
  float largest = 0;
  for (const float w : p.weights) largest = std::max(largest, std::fabs(w));
  return spec.format == Format::kNvfp4 ? nvfp4_global_scale(largest) : 1.0F;
}

const std::vector<FormatSpec> kSpecs = {
    {Format::kS4, 128, ScaleType::kF16, ZeroKind::kNone},    {Format::kInt3, 64, ScaleType::kF16, ZeroKind::kNone},
    {Format::kFp4, 32, ScaleType::kF16, ZeroKind::kNone},    {Format::kMxfp4, 32, ScaleType::kE8m0, ZeroKind::kNone},
    {Format::kNvfp4, 16, ScaleType::kE4m3, ZeroKind::kNone}, {Format::kU4, 32, ScaleType::kF16, ZeroKind::kMinimum},
    {Format::kU4, 64, ScaleType::kF16, ZeroKind::kInteger},  {Format::kNf3, 32, ScaleType::kBf16, ZeroKind::kNone},
    {Format::kInt2, 16, ScaleType::kF32, ZeroKind::kNone},   {Format::kNf2, 0, ScaleType::kF16, ZeroKind::kNone}};

const std::vector<FormatSpec> kSparseSpecs = [] {
  std::vector<FormatSpec> specs{
      {Format::kS4, 128, ScaleType::kF16, ZeroKind::kNone}, default_spec(Format::kFp4), default_spec(Format::kNvfp4)};
  for (FormatSpec& spec : specs) spec.sparse = true;
  return specs;
}();

// Takes a column out of the inverse.
void eliminate(std::vector<double>& inverse, std::size_t n, std::size_t c) {
  const double pivot = inverse[c * n + c];
  const std::vector<double> row(inverse.begin() + static_cast<std::ptrdiff_t>(c * n),
                                inverse.begin() + static_cast<std::ptrdiff_t>((c + 1) * n));
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j) inverse[i * n + j] -= row[i] * row[j] / pivot;
}

// Which of four neighbouring columns of each row are set to zero: the two whose loss is least when their
// turn comes (arXiv 2301.00774).
std::vector<bool> chosen_zeros(const std::vector<double>& w, std::vector<double> inverse, std::size_t n,
                               std::size_t c) {
  std::array<double, 4> diagonal{};
  for (std::size_t i = 0; i < 4; ++i) {
    diagonal[i] = inverse[(c + i) * n + c + i];
    eliminate(inverse, n, c + i);
  }
  std::vector<bool> zeros(w.size());
  for (std::size_t begin = c; begin < w.size(); begin += n) {
    std::array<std::size_t, 4> order{0, 1, 2, 3};
    const auto loss = [&](std::size_t i) { return w[begin + i] * w[begin + i] / diagonal[i]; };
    std::sort(order.begin(), order.end(), [&](std::size_t x, std::size_t y) { return loss(x) < loss(y); });
    zeros[begin + order[0]] = zeros[begin + order[1]] = true;
  }
  return zeros;
}

// Optimal brain surgery a column at a time: the whole inverse is carried along, a row and column leaving it at
// each step (arXiv 2210.17323, equations 2 and 3).
std::vector<float> by_columns(const FormatSpec& spec, const Problem& p, const GptqFactor<double>& factor) {
  const auto n = static_cast<std::size_t>(p.cols);
  // The damped Hessian, from its importances, inverted by elimination.
  double mean = 0;
  for (std::int64_t i = 0; i < p.cols; ++i) mean += p.hessian.at(i, i) / static_cast<double>(n);
  std::vector<double> h(n * n);
  std::vector<double> inverse(n * n);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j)
      h[i * n + j] = p.hessian.at(static_cast<std::int64_t>(i), static_cast<std::int64_t>(j));
    h[i * n + i] += GptqOptions{}.damping * mean;
    inverse[i * n + i] = 1;
  }
  for (std::size_t i = 0; i < n; ++i) {
    const double pivot = h[i * n + i];
    for (std::size_t j = 0; j < n; ++j) {
      h[i * n + j] /= pivot;
      inverse[i * n + j] /= pivot;
    }
    for (std::size_t k = 0; k < n; ++k) {
      const double f = h[k * n + i];
      if (k == i || f == 0) continue;
      for (std::size_t j = 0; j < n; ++j) {
        h[k * n + j] -= f * h[i * n + j];
        inverse[k * n + j] -= f * inverse[i * n + j];
      }
    }
  }
  std::vector<double> w(p.weights.begin(), p.weights.end());
  std::vector<float> out(w.size());
  const auto size = static_cast<std::size_t>(spec.group_size(p.cols));
  const float global = global_of(spec, p);
  std::vector<float> fitted = p.weights;
  for (std::size_t begin = 0; spec.sparse && begin < fitted.size(); begin += n)
    prune(std::span(fitted).subspan(begin, n), factor.importance);
  std::vector<bool> zeros(w.size());
  for (const std::int32_t column : factor.order) {
    const auto c = static_cast<std::size_t>(column);
    if (spec.sparse && c % 4 == 0) zeros = chosen_zeros(w, inverse, n, c);
    const std::size_t begin = c / size * size;
    for (std::size_t r = 0; r < static_cast<std::size_t>(p.rows); ++r) {
      const std::span<const float> x = std::span(fitted).subspan(r * n + begin, std::min(size, n - begin));
      const GroupFit fit = fit_group(spec, x, global, std::span(factor.importance).subspan(begin, x.size()));
      const float weight = zeros[r * n + c] ? 0.0F : static_cast<float>(w[r * n + c]);
      std::uint8_t code = 0;
      encode_group(spec, {&weight, 1}, fit, global, &code);
      const float offset = spec.zero == ZeroKind::kInteger ? static_cast<float>(fit.zero) : 0.0F;
      out[r * n + c] =
          effective_scale(spec, fit.scale, global) * (decode_table(spec.format)[code] - offset) + fit.minimum;
      const double error = (w[r * n + c] - out[r * n + c]) / inverse[c * n + c];
      for (std::size_t j = 0; j < n; ++j) w[r * n + j] -= error * inverse[c * n + j];
    }
    eliminate(inverse, n, c);
  }
  return out;
}

std::vector<float> decoded(const PackedMatrix& m) {
  std::vector<float> out(static_cast<std::size_t>(m.rows * m.cols));
  for (std::int64_t r = 0; r < m.rows; ++r) m.view().decode_row(r, out.data() + r * m.cols);
  return out;
}

TEST(Gptq, InDoubleEveryCodeIsThePlainSolvers) {
  for (const FormatSpec& spec : kSpecs) {
    for (const std::int64_t cols : {33, 200}) {
      const Problem p(19, cols, 3);
      for (const bool act_order : {true, false}) {
        GptqOptions options;
        options.act_order = act_order;
        const auto factor = gptq_factor<double>(p.hessian, options, test_pool());
        ASSERT_TRUE(factor);
        const PackedMatrix m = gptq_matrix(spec, p.rows, p.cols, p.reader(), global_of(spec, p), *factor, test_pool());
        EXPECT_EQ(decoded(m), by_columns(spec, p, *factor)) << format_info(spec.format).name << " " << cols;
      }
    }
  }
}

TEST(Gptq, OfSparseFormatsTooEveryCodeIsThePlainSolvers) {
  for (const FormatSpec& spec : kSparseSpecs) {
    for (const std::int64_t cols : {36, 200}) {
      const Problem p(19, cols, 3);
      for (const bool act_order : {true, false}) {
        GptqOptions options;
        options.act_order = act_order;
        options.in_fours = true;
        const auto factor = gptq_factor<double>(p.hessian, options, test_pool());
        ASSERT_TRUE(factor);
        const PackedMatrix m = gptq_matrix(spec, p.rows, p.cols, p.reader(), global_of(spec, p), *factor, test_pool());
        EXPECT_EQ(decoded(m), by_columns(spec, p, *factor)) << format_label(spec) << " " << cols;
      }
    }
  }
}

TEST(Gptq, InFloatTheLossIsTheSame) {
  std::vector<FormatSpec> specs = kSpecs;
  specs.insert(specs.end(), kSparseSpecs.begin(), kSparseSpecs.end());
  for (const FormatSpec& spec : specs) {
    const Problem p(40, 300, 4);
    GptqOptions options;
    options.in_fours = spec.sparse;
    const auto fast = gptq_factor<float>(p.hessian, options, test_pool());
    const auto exact = gptq_factor<double>(p.hessian, options, test_pool());
    const float global = global_of(spec, p);
    const PackedMatrix a = gptq_matrix(spec, p.rows, p.cols, p.reader(), global, *fast, test_pool());
    const PackedMatrix b = gptq_matrix(spec, p.rows, p.cols, p.reader(), global, *exact, test_pool());
    const double found = output_error(a, p.reader(), p.hessian, test_pool());
    const double expected = output_error(b, p.reader(), p.hessian, test_pool());
    EXPECT_NEAR(found, expected, 1e-4 * expected) << format_info(spec.format).name;
  }
}

// By the samples themselves.
TEST(Gptq, OutputErrorIsThatOfTheOutputs) {
  const Problem p(6, 50, 5);
  const PackedMatrix m = quantize_matrix(kSpecs[0], p.rows, p.cols, p.reader(), 1, test_pool());
  const std::vector<float> q = decoded(m);
  double error = 0;
  double output = 0;
  for (std::size_t sample = 0; sample < p.samples.size(); sample += 50) {
    for (std::size_t r = 0; r < 6; ++r) {
      double y = 0;
      double d = 0;
      for (std::size_t c = 0; c < 50; ++c) {
        y += static_cast<double>(p.weights[r * 50 + c]) * p.samples[sample + c];
        d += (static_cast<double>(q[r * 50 + c]) - p.weights[r * 50 + c]) * p.samples[sample + c];
      }
      error += d * d;
      output += y * y;
    }
  }
  EXPECT_NEAR(output_error(m, p.reader(), p.hessian, test_pool()), error, 1e-5 * error);
  EXPECT_NEAR(output_energy(p.rows, p.cols, p.reader(), p.hessian, test_pool()), output, 1e-5 * output);
}

TEST(Gptq, OutputsAreCloserThanRoundedToNearest) {
  std::vector<FormatSpec> specs = kSpecs;
  specs.insert(specs.end(), kSparseSpecs.begin(), kSparseSpecs.end());
  for (const FormatSpec& spec : specs) {
    const Problem p(32, 256, 6);
    GptqOptions options;
    options.in_fours = spec.sparse;
    const auto factor = gptq_factor<float>(p.hessian, options, test_pool());
    const float global = global_of(spec, p);
    const auto error = [&](const PackedMatrix& m) { return output_error(m, p.reader(), p.hessian, test_pool()); };
    const double nearest = error(quantize_matrix(spec, p.rows, p.cols, p.reader(), global, test_pool()));
    const double weighted =
        error(quantize_matrix(spec, p.rows, p.cols, p.reader(), global, test_pool(), nullptr, factor->importance));
    const double found = error(gptq_matrix(spec, p.rows, p.cols, p.reader(), global, *factor, test_pool()));
    EXPECT_LT(found, 0.8 * nearest) << format_info(spec.format).name;
    EXPECT_LT(found, weighted) << format_info(spec.format).name;
    EXPECT_LT(weighted, 1.02 * nearest) << format_info(spec.format).name;
  }
}

TEST(Gptq, ThreadsDoNotChangeTheResult) {
  const Problem p(70, 300, 7);
  const auto factor = gptq_factor<float>(p.hessian, {}, test_pool());
  ThreadPool one(1);
  ThreadPool three(3);
  HessianSum again(p.cols);
  again.add(p.samples.data(), 3 * p.cols, three);
  for (std::int64_t i = 0; i < p.cols; ++i)
    for (std::int64_t j = 0; j <= i; ++j) ASSERT_EQ(again.at(i, j), p.hessian.at(i, j));
  const PackedMatrix a = gptq_matrix(kSpecs[1], p.rows, p.cols, p.reader(), 1, *factor, one);
  const PackedMatrix b = gptq_matrix(kSpecs[1], p.rows, p.cols, p.reader(), 1, *factor, three);
  EXPECT_EQ(a.codes, b.codes);
  EXPECT_EQ(a.scales, b.scales);
}

TEST(Gptq, InputsThatSayNothing) {
  HessianSum none(8);
  EXPECT_FALSE(gptq_factor<float>(none, {}, test_pool()));
  // Fewer samples than columns: damping helps.
  const std::vector<float> one = {1, 2, 3, 4, 5, 6, 7, 8};
  none.add(one.data(), 1, test_pool());
  EXPECT_TRUE(gptq_factor<float>(none, {}, test_pool()));
  const std::vector<float> bad(8, NAN);
  HessianSum broken(8);
  broken.add(bad.data(), 1, test_pool());
  EXPECT_FALSE(gptq_factor<float>(broken, {}, test_pool()));
}

TEST(Gptq, RefusesWeightsThatAreNoNumbers) {
  Problem p(3, 16, 8);
  p.weights[20] = INFINITY;
  const auto factor = gptq_factor<float>(p.hessian, {}, test_pool());
  expect_error(ErrorCode::kInvalidArgument, "weight [1, 4] is inf",
               [&] { gptq_matrix(kSpecs[0], p.rows, p.cols, p.reader(), 1, *factor, test_pool()); });
}

}  // namespace
}  // namespace metal_marlin
