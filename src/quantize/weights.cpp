#include "quantize/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "base/seconds_since.h"
#include "base/thread_pool.h"
#include "formats/group_scale.h"
#include "formats/hadamard.h"
#include "formats/small_floats.h"
#include "metal_marlin/error.h"
#include "models/architectures.h"

namespace metal_marlin {
namespace {

constexpr std::int64_t kFewestRows = 4;  // inputs a row

// Linears whose inputs are the same are run as one by others, who want one
// NVFP4 global scale for all of them: "….qkv", "….gate_up", or the name itself.
std::string fused_name(const std::string& module) {
  const std::size_t dot = module.rfind('.');
  const std::string last = module.substr(dot + 1);
  if (last == "q_proj" || last == "k_proj" || last == "v_proj") return module.substr(0, dot) + ".qkv";
  if (last == "gate_proj" || last == "up_proj") return module.substr(0, dot) + ".gate_up";
  if (last == "q_a_proj" || last == "kv_a_proj_with_mqa") return module.substr(0, dot) + ".qkv_a";
  return module;
}

// Inputs of fewer rows than this share of their columns are no guide.
bool says_enough(const HessianSum* inputs) {
  return inputs != nullptr && inputs->rows() * kFewestRows >= inputs->cols();
}

std::string fallback_reason(const Job& job, const HessianSum* inputs) {
  if (job.planned.embedding_or_head()) return "embeddings and head have no method but rtn";
  if (inputs == nullptr) return "no token of the text reached it";
  if (!says_enough(inputs))
    return fmt::format("{} tokens of the text reached its {} inputs, too few", inputs->rows(), inputs->cols());
  return "its inputs on the text are degenerate";
}

double relative(double error, double energy) {
  if (!std::isfinite(energy)) return energy;
  return energy > 0 ? std::sqrt(std::max(error, 0.0) / energy) : 0;
}

// Whether a group has the largest scale that f16 holds: larger weights were cut off.
bool is_saturated(const PackedView& matrix) {
  if (matrix.spec.scale_type != ScaleType::kF16) return false;
  constexpr float kLargestF16 = 65504;
  for (std::int64_t row = 0; row < matrix.rows; ++row) {
    for (std::int64_t group = 0; group < matrix.spec.groups(matrix.cols); ++group) {
      if (std::fabs(matrix.scale(row, group)) >= kLargestF16) return true;
    }
  }
  return false;
}

// Errors are sums of squares in f32.
void refuse_overflow(const PackedView& matrix, const QuantizedTensor& report, const QuantizeStats& stats) {
  const double errors = report.relative_error + report.output_error + report.output_error_rtn;
  if (std::isfinite(errors) && stats.squared_weight <= std::numeric_limits<float>::max() && !is_saturated(matrix))
    return;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("weights are too large for {} with scales in {}: the error overflows",
                          format_label(matrix.spec), scale_type_name(matrix.spec.scale_type)));
}

}  // namespace

// A weight's rows as they are, and as they are to be packed.
struct WeightQuantizer::Rows {
  Weight weight;
  std::shared_ptr<std::vector<float>> rotated;  // all of them, where rows are mixed
  RowReader plain;
  RowReader packed;
};

WeightQuantizer::Rows WeightQuantizer::rows_of(const Job& job) const {
  const std::int64_t rows = job.info->shape[0];
  const std::int64_t cols = job.info->shape.size() > 1 ? job.info->shape[1] : 1;
  Rows out;
  out.weight = checkpoint_.load(job.info->name, pool_);
  out.plain = [weight = out.weight, cols](std::int64_t row, float* x) { weight.decode_row(row, cols, x); };
  out.packed = out.plain;
  if (job.output_rotation != 0) {
    out.rotated = std::make_shared<std::vector<float>>(static_cast<std::size_t>(rows * cols));
    for (std::int64_t r = 0; r < rows; ++r) out.plain(r, out.rotated->data() + r * cols);
    rotate_row_blocks(out.rotated->data(), rows, cols, job.output_rotation);
    out.packed = [all = out.rotated, cols](std::int64_t row, float* x) {
      std::copy_n(all->data() + row * cols, cols, x);
    };
  }
  if (job.input_rotation() != 0) {
    out.packed = [read = out.packed, cols, block = job.input_rotation()](std::int64_t row, float* x) {
      read(row, x);
      rotate_blocks(x, cols, block);
    };
  }
  return out;
}

const WeightQuantizer::Seen* WeightQuantizer::seen(const HessianSum& inputs, const Job& job) {
  const int rotation = job.input_rotation();
  const auto [place, added] = seen_.try_emplace({&inputs, rotation, job.spec->sparse});
  Seen& out = place->second;
  if (added && rotation != 0) out.rotated = inputs.rotated(rotation, pool_);
  const HessianSum& hessian = rotation != 0 ? out.rotated : inputs;
  GptqOptions options;
  options.in_fours = job.spec->sparse;
  if (added) {
    const double mean = hessian.mean_of_diagonal();
    if (mean > 0 && std::isfinite(mean)) out.importance = hessian.importance(options.damping * mean);
  }
  if (job.method == QuantizeMethod::kRtnWeighted) return out.importance.empty() ? nullptr : &out;
  if (!std::exchange(out.factored, true)) out.factor = gptq_factor<float>(hessian, options, pool_);
  return out.factor ? &out : nullptr;
}

WeightQuantizer::Result WeightQuantizer::quantize(const Job& job, const HessianSum* inputs) {
  const auto start = std::chrono::steady_clock::now();
  const FormatSpec& spec = *job.spec;
  const std::int64_t rows = job.info->shape[0];
  const std::int64_t cols = job.info->shape[1];
  Result out;
  QuantizeStats stats;
  try {
    const Rows read = rows_of(job);
    const float global = spec.format == Format::kNvfp4 ? global_scale(job) : 1.0F;
    const bool wants_text = job.method != QuantizeMethod::kRtn;
    const Seen* const known = wants_text && says_enough(inputs) ? seen(*inputs, job) : nullptr;
    if (known == nullptr) {
      if (wants_text) out.report.fallback = fallback_reason(job, inputs);
      out.matrix = quantize_matrix(spec, rows, cols, read.packed, global, pool_, &stats);
    } else if (job.method == QuantizeMethod::kRtnWeighted) {
      out.matrix = quantize_matrix(spec, rows, cols, read.packed, global, pool_, &stats, known->importance);
    } else {
      out.matrix = gptq_matrix(spec, rows, cols, read.packed, global, *known->factor, pool_, &stats);
    }
    if (known != nullptr) {
      out.report.method = job.method;
      FormatSpec plain_spec = spec;
      plain_spec.rotation = 0;
      const PackedMatrix plain = quantize_matrix(plain_spec, rows, cols, read.plain, global, pool_);
      const HessianSum& of_packed = job.input_rotation() != 0 ? known->rotated : *inputs;
      const double energy = output_energy(rows, cols, read.plain, *inputs, pool_);
      out.report.output_error = relative(output_error(out.matrix, read.packed, of_packed, pool_), energy);
      out.report.output_error_rtn = relative(output_error(plain, read.plain, *inputs, pool_), energy);
    }
    if (stats.squared_weight > 0) out.report.relative_error = std::sqrt(stats.squared_error / stats.squared_weight);
    refuse_overflow(out.matrix.view(), out.report, stats);
  } catch (const Error& error) {
    const std::string where = fmt::format("{}: tensor {}: ", checkpoint_.where(job.info->name), job.info->name);
    if (std::string_view(error.what()).starts_with(where)) throw;
    throw Error(error.code(), where + error.what());
  }
  out.report.rotation = job.input_rotation();
  out.report.rotation_folded = job.folded_rotation != 0;
  out.report.seconds = seconds_since(start);
  return out;
}

WeightQuantizer::Kept WeightQuantizer::keep(const Job& job) const {
  const TensorPlan& plan = job.entries.front();
  const Rows read = rows_of(job);
  const Weight& weight = read.weight;
  if (!weight.packed() && job.output_rotation == 0) return {std::get<DenseView>(weight.view).bytes, weight.owner};
  const std::int64_t rows = job.info->shape[0];
  const std::int64_t cols = job.info->shape.size() > 1 ? job.info->shape[1] : 1;
  std::vector<float> row(static_cast<std::size_t>(cols));
  auto out = std::make_shared<std::vector<std::byte>>();
  out->reserve(plan.bytes());
  for (std::int64_t r = 0; r < rows; ++r) {
    read.packed(r, row.data());
    for (const float x : row) {
      const std::uint16_t half = plan.dtype == DType::kBf16 ? f32_to_bf16(x) : f32_to_f16(x);
      const auto bytes =
          plan.dtype == DType::kF32 ? std::as_bytes(std::span(&x, 1)) : std::as_bytes(std::span(&half, 1));
      out->insert(out->end(), bytes.begin(), bytes.end());
    }
  }
  return {*out, out};
}

// One for all modules that are fused with this one.
float WeightQuantizer::global_scale(const Job& job) {
  const std::string fused = fused_name(module_name(job.info->name));
  const auto known = global_scales_.find(fused);
  if (known != global_scales_.end()) return known->second;
  float largest = 0;
  for (const Job& other : plan_.jobs) {
    if (other.spec && fused_name(module_name(other.info->name)) == fused)
      largest = std::max(largest,
                         largest_magnitude(other.info->shape[0], other.info->shape[1], rows_of(other).packed, pool_));
  }
  return global_scales_[fused] = nvfp4_global_scale(largest);
}

}  // namespace metal_marlin
