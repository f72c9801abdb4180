#include "quantize/gptq.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "base/round_up.h"
#include "base/thread_pool.h"
#include "formats/codec.h"
#include "formats/group_scale.h"
#include "formats/sparsity.h"
#include "metal_marlin/error.h"
#include "quantize/inverse_factor.h"
#include "quantize/linear_algebra.h"

namespace metal_marlin {
namespace {

// Rows that a thread takes at a time, and columns whose corrections reach the rest at once.
constexpr std::int64_t kRows = 16;
constexpr std::int64_t kBlock = 128;

// One block of rows on its way through all columns.
template <typename Real>
class RowBlock {
 public:
  RowBlock(PackedMatrix& matrix, const GptqFactor<Real>& factor, std::int64_t first, std::int64_t rows)
      : matrix_(matrix),
        factor_(factor),
        cols_(matrix.cols),
        first_(first),
        rows_(rows),
        weights_(static_cast<std::size_t>(rows * cols_)),
        errors_(static_cast<std::size_t>(rows * kBlock)),
        codes_(static_cast<std::size_t>(rows * cols_)),
        table_(decode_table(matrix.spec.format)) {}

  // Scales for the weights as they are.
  QuantizeStats load(const RowReader& read) {
    QuantizeStats stats;
    original_.resize(weights_.size());
    for (std::int64_t r = 0; r < rows_; ++r) {
      float* const row = original_.data() + r * cols_;
      read(first_ + r, row);
      for (std::int64_t c = 0; c < cols_; ++c) {
        if (!std::isfinite(row[c])) {
          throw Error(ErrorCode::kInvalidArgument,
                      fmt::format("weight [{}, {}] is {}, expected a finite number", first_ + r, c, row[c]));
        }
        stats.squared_weight += static_cast<double>(row[c]) * row[c];
      }
      if (matrix_.spec.sparse) {
        std::vector<float> pruned(row, row + cols_);
        prune(pruned, factor_.importance);
        fit_groups(r, pruned.data());
      } else {
        fit_groups(r, row);
      }
      for (std::int64_t step = 0; step < cols_; ++step)
        weights_[static_cast<std::size_t>(r * cols_ + step)] =
            static_cast<Real>(row[factor_.order[static_cast<std::size_t>(step)]]);
    }
    return stats;
  }

  void round() {
    for (std::int64_t begin = 0; begin < cols_; begin += kBlock) {
      const std::int64_t end = std::min(begin + kBlock, cols_);
      for (std::int64_t step = begin; step < end; ++step) {
        if (matrix_.spec.sparse && step % kSparseGroup == 0) choose(step);
        round_column(step, begin, end);
      }
      linear_algebra::subtract_product(rows_, cols_ - end, end - begin, errors_.data(), kBlock,
                                       factor_.upper.data() + begin * cols_ + end, cols_, weights_.data() + end, cols_);
    }
  }

  double store() {
    double squared_error = 0;
    std::vector<float> decoded(static_cast<std::size_t>(cols_));
    for (std::int64_t r = 0; r < rows_; ++r) {
      matrix_.set_codes(
          first_ + r, std::span(codes_).subspan(static_cast<std::size_t>(r * cols_), static_cast<std::size_t>(cols_)));
      matrix_.view().decode_row(first_ + r, decoded.data());
      for (std::int64_t c = 0; c < cols_; ++c)
        squared_error += std::pow(static_cast<double>(original_[static_cast<std::size_t>(r * cols_ + c)]) -
                                      decoded[static_cast<std::size_t>(c)],
                                  2);
    }
    return squared_error;
  }

 private:
  void fit_groups(std::int64_t r, const float* row) {
    const FormatSpec& spec = matrix_.spec;
    const std::int64_t size = spec.group_size(cols_);
    for (std::int64_t begin = 0, group = 0; begin < cols_; begin += size, ++group) {
      const auto count = static_cast<std::size_t>(std::min(size, cols_ - begin));
      const GroupFit fit = fit_group(spec, {row + begin, count}, matrix_.global_scale,
                                     std::span(factor_.importance).subspan(static_cast<std::size_t>(begin), count));
      matrix_.set_scale(first_ + r, group, fit.scale);
      if (spec.zero == ZeroKind::kMinimum) matrix_.set_minimum(first_ + r, group, fit.minimum);
      if (spec.zero == ZeroKind::kInteger) matrix_.set_zero(first_ + r, group, fit.zero);
      fits_.push_back(fit);
    }
  }

  // Which two of the four columns from a step on each row keeps.
  void choose(std::int64_t step) {
    kept_.resize(static_cast<std::size_t>(rows_ * kSparseGroup));
    for (std::int64_t r = 0; r < rows_; ++r) {
      std::array<float, kSparseGroup> costs{};  // of a zero, by their roots
      for (std::size_t i = 0; i < costs.size(); ++i) {
        const auto at = step + static_cast<std::int64_t>(i);
        costs[i] = static_cast<float>(std::abs(weights_[static_cast<std::size_t>(r * cols_ + at)]) /
                                      factor_.upper[static_cast<std::size_t>(at * cols_ + at)]);
      }
      prune(costs, {});
      for (std::size_t i = 0; i < costs.size(); ++i)
        kept_[static_cast<std::size_t>(r * kSparseGroup) + i] = costs[i] != 0 ? 1 : 0;
    }
  }

  // Rounds the column of a step and lets the rest of its block make good for it.
  void round_column(std::int64_t step, std::int64_t begin, std::int64_t end) {
    const FormatSpec& spec = matrix_.spec;
    const std::int64_t column = factor_.order[static_cast<std::size_t>(step)];
    const std::int64_t groups = spec.groups(cols_);
    const std::int64_t group = column / spec.group_size(cols_);
    const Real* const upper = factor_.upper.data() + step * cols_;
    for (std::int64_t r = 0; r < rows_; ++r) {
      Real* const row = weights_.data() + r * cols_;
      const GroupFit& fit = fits_[static_cast<std::size_t>(r * groups + group)];
      const bool kept = !spec.sparse || kept_[static_cast<std::size_t>(r * kSparseGroup + step % kSparseGroup)] != 0;
      const float weight = kept ? static_cast<float>(row[step]) : 0.0F;
      std::uint8_t& code = codes_[static_cast<std::size_t>(r * cols_ + column)];
      encode_group(spec, {&weight, 1}, fit, matrix_.global_scale, &code);
      const float offset = spec.zero == ZeroKind::kInteger ? static_cast<float>(fit.zero) : 0.0F;
      const float value =
          effective_scale(spec, fit.scale, matrix_.global_scale) * (table_[code] - offset) + fit.minimum;
      const Real error = (row[step] - static_cast<Real>(value)) / upper[step];
      errors_[static_cast<std::size_t>(r * kBlock + step - begin)] = error;
      for (std::int64_t later = step + 1; later < end; ++later) row[later] -= error * upper[later];
    }
  }

  PackedMatrix& matrix_;
  const GptqFactor<Real>& factor_;
  std::int64_t cols_;
  std::int64_t first_;
  std::int64_t rows_;
  std::vector<float> original_;
  std::vector<Real> weights_;  // in order of step
  std::vector<Real> errors_;   // of a block of columns
  std::vector<std::uint8_t> codes_;
  std::vector<GroupFit> fits_;
  std::vector<std::uint8_t> kept_;  // of the four columns at hand, [row][4]
  std::span<const float> table_;
};

// Columns, in groups of neighbours, by the falling sum of a group's diagonal.
void order_columns(const HessianSum& hessian, std::int64_t group, std::vector<std::int32_t>& order) {
  std::vector<double> sums(order.size());
  for (std::int64_t i = 0; i < hessian.cols(); ++i) sums[static_cast<std::size_t>(i / group)] += hessian.at(i, i);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return sums[static_cast<std::size_t>(a / group)] > sums[static_cast<std::size_t>(b / group)];
  });
}

}  // namespace

template <typename Real>
std::optional<GptqFactor<Real>> gptq_factor(const HessianSum& hessian, const GptqOptions& options, ThreadPool& pool) {
  const std::int64_t n = hessian.cols();
  const double mean = hessian.mean_of_diagonal();
  if (!(mean > 0) || !std::isfinite(mean)) return std::nullopt;
  GptqFactor<Real> factor;
  factor.cols = n;
  factor.order.resize(static_cast<std::size_t>(n));
  std::iota(factor.order.begin(), factor.order.end(), 0);
  if (options.act_order) order_columns(hessian, options.in_fours ? kSparseGroup : 1, factor.order);
  for (const double more : {1.0, 10.0, 100.0}) {
    const double damping = options.damping * more * mean;
    factor.upper.resize(static_cast<std::size_t>(n * n));
    pool.parallel_for(n, 16, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        for (std::int64_t j = i; j < n; ++j) {
          const double value =
              hessian.at(factor.order[static_cast<std::size_t>(i)], factor.order[static_cast<std::size_t>(j)]);
          factor.upper[static_cast<std::size_t>(i * n + j)] = static_cast<Real>(i == j ? value + damping : value);
        }
      }
    });
    if (!inverse_factor(n, factor.upper.data(), pool)) continue;
    factor.importance = hessian.importance(damping);
    return factor;
  }
  return std::nullopt;
}

template <typename Real>
PackedMatrix gptq_matrix(const FormatSpec& spec, std::int64_t rows, std::int64_t cols, const RowReader& read,
                         float global_scale, const GptqFactor<Real>& factor, ThreadPool& pool, QuantizeStats* stats) {
  validate(spec);
  PackedMatrix matrix(spec, rows, cols);
  matrix.global_scale = global_scale;
  const std::int64_t blocks = divide_up(rows, kRows);
  std::vector<QuantizeStats> results(static_cast<std::size_t>(blocks));
  pool.parallel_for(blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      RowBlock<Real> block(matrix, factor, i * kRows, std::min(kRows, rows - i * kRows));
      QuantizeStats& result = results[static_cast<std::size_t>(i)];
      result = block.load(read);
      block.round();
      result.squared_error = block.store();
    }
  });
  if (stats != nullptr) {
    for (const QuantizeStats& result : results) {
      stats->squared_error += result.squared_error;
      stats->squared_weight += result.squared_weight;
    }
  }
  return matrix;
}

template std::optional<GptqFactor<float>> gptq_factor(const HessianSum&, const GptqOptions&, ThreadPool&);
template std::optional<GptqFactor<double>> gptq_factor(const HessianSum&, const GptqOptions&, ThreadPool&);
template PackedMatrix gptq_matrix(const FormatSpec&, std::int64_t, std::int64_t, const RowReader&, float,
                                  const GptqFactor<float>&, ThreadPool&, QuantizeStats*);
template PackedMatrix gptq_matrix(const FormatSpec&, std::int64_t, std::int64_t, const RowReader&, float,
                                  const GptqFactor<double>&, ThreadPool&, QuantizeStats*);

double output_energy(std::int64_t rows, std::int64_t cols, const RowReader& read, const HessianSum& hessian,
                     ThreadPool& pool) {
  constexpr std::int64_t kAtOnce = 64;
  const std::int64_t blocks = divide_up(rows, kAtOnce);
  std::vector<double> sums(static_cast<std::size_t>(blocks));
  pool.parallel_for(blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> x(static_cast<std::size_t>(kAtOnce * cols));
    std::vector<float> products(x.size());
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t count = std::min(kAtOnce, rows - block * kAtOnce);
      for (std::int64_t r = 0; r < count; ++r) read(block * kAtOnce + r, x.data() + r * cols);
      linear_algebra::multiply_symmetric(count, cols, x.data(), hessian.lower(), products.data());
      double& sum = sums[static_cast<std::size_t>(block)];
      for (std::size_t i = 0; i < static_cast<std::size_t>(count * cols); ++i)
        sum += static_cast<double>(x[i]) * products[i];
    }
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

double output_error(const PackedMatrix& matrix, const RowReader& read, const HessianSum& hessian, ThreadPool& pool) {
  const PackedView view = matrix.view();
  const RowReader difference = [&](std::int64_t row, float* out) {
    std::vector<float> decoded(static_cast<std::size_t>(view.cols));
    view.decode_row(row, decoded.data());
    read(row, out);
    for (std::size_t i = 0; i < decoded.size(); ++i) out[i] = decoded[i] - out[i];
  };
  return output_energy(matrix.rows, matrix.cols, difference, hessian, pool);
}

}  // namespace metal_marlin
