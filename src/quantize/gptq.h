// GPTQ (arXiv 2210.17323): a linear layer's weights are rounded column by column, what a rounding
// changes in the layer's output on the calibration text being made good by the columns still to
// come. Groups' scales are found first, for the weights as they are, with columns weighted by how
// much their inputs vary; so columns may be taken in any order, and those that matter most go first.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "formats/packed_matrix.h"
#include "quantize/hessian.h"

namespace metal_marlin {

struct GptqOptions {
  double damping = 0.01;  // of the mean of the diagonal, added to it
  bool act_order = true;  // columns by falling diagonal, not as they come
  // Four neighbours follow one another, as 2:4 sparse formats need: groups of four are ordered by the
  // sums of their diagonals.
  bool in_fours = false;
};

// What GPTQ needs of a linear layer's inputs, shared by layers that read the same ones. Real: float,
// or double to compare with.
template <typename Real>
struct GptqFactor {
  std::int64_t cols = 0;
  std::vector<std::int32_t> order;  // the column of each step
  // Upper triangular [cols][cols], in order of step: U^T U is the inverse of the damped Hessian.
  std::vector<Real> upper;
  std::vector<float> importance;  // of each column: the diagonal, damped
};

// Nothing: too few inputs, or inputs that depend on one another, even with 100 times the damping. The result
// does not depend on the number of threads.
template <typename Real>
std::optional<GptqFactor<Real>> gptq_factor(const HessianSum& hessian, const GptqOptions& options, ThreadPool& pool);

// As quantize_matrix. The result does not depend on the number of threads. Of a sparse format's four
// neighbours the two are set to zero that cost the layer's output least, as in SparseGPT (arXiv
// 2301.00774), what the columns before them changed being counted; the factor must be in_fours.
template <typename Real>
PackedMatrix gptq_matrix(const FormatSpec& spec, std::int64_t rows, std::int64_t cols, const RowReader& read,
                         float global_scale, const GptqFactor<Real>& factor, ThreadPool& pool,
                         QuantizeStats* stats = nullptr);

// The outputs of a layer of these rows on the text, squared, summed over rows: of x H x^T; and the same of
// the error that a quantized matrix makes in them.
double output_energy(std::int64_t rows, std::int64_t cols, const RowReader& read, const HessianSum& hessian,
                     ThreadPool& pool);
double output_error(const PackedMatrix& matrix, const RowReader& read, const HessianSum& hessian, ThreadPool& pool);

}  // namespace metal_marlin
