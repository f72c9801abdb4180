#include "quantize/jobs.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "formats/sparsity.h"
#include "io/tensor_names.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kWeightSuffix = ".weight";

class Planner {
 public:
  Planner(const Checkpoint& checkpoint, const ModelConfig& config, const Plan& plan, std::span<const Plan> predictions,
          const std::function<void(const std::string&)>& notice)
      : checkpoint_(checkpoint), config_(config), plan_(plan), predictions_(predictions), notice_(notice) {}

  JobPlan run(const std::function<std::optional<WeightChoice>(const PlannedWeight&)>& choose, std::size_t shard_bytes) {
    std::map<std::string, PlannedWeight> planned;
    const auto add = [&](const PlannedWeight& weight) {
      checkpoint_.require(weight.name, weight.shape);
      planned.try_emplace(weight.name, weight);
    };
    for (const PlannedWeight& weight : planned_weights(plan_)) add(weight);
    for (const Plan& prediction : predictions_) {
      for (PlannedWeight& weight : planned_weights(prediction)) {
        weight.layer = -1;  // no calibration text passes through it
        add(weight);
      }
    }
    for (const WeightInfo& info : checkpoint_.weights()) {
      const auto found = planned.find(info.name);
      const bool used = found != planned.end();
      if (!used && leaves_out(info.name)) continue;
      Job job;
      job.info = &info;
      if (used) job.planned = found->second;
      const auto choice = used && job.planned.quantizable ? choose(job.planned) : std::nullopt;
      if (choice) {
        job.spec = choice->spec;
        job.method = choice->method;
        check_sparse(job);
      } else if (used && job.planned.matrix && !job.planned.embedding_or_head()) {
        out_.ignored.push_back(module_name(info.name));
      }
      out_.weights += element_count(info.shape).value_or(0);
      out_.jobs.push_back(std::move(job));
    }
    for (Job& job : out_.jobs) by_name_[job.info->name] = &job;
    for (const Op& op : plan_.ops) fold(op);
    for (Job& job : out_.jobs) rotate(job);
    // All that run together are rotated alike, or this throws.
    with_rotations(plan_, [&](const std::string& name) {
      const auto found = by_name_.find(name);
      return found == by_name_.end() || !found->second->spec ? 0 : found->second->spec->rotation;
    });
    for (const Job& job : out_.jobs) {
      if (job.spec)
        out_.modules[module_name(job.info->name)] = {*job.spec, job.info->shape[0], job.info->shape[1],
                                                     job.folded_rotation};
    }
    const bool in_layers = std::none_of(out_.jobs.begin(), out_.jobs.end(),
                                        [](const Job& job) { return job.spec && job.planned.embedding_or_head(); });
    out_.scheme =
        in_layers && fits_compressed_tensors(out_.modules) ? PackScheme::kCompressedTensors : PackScheme::kMetalMarlin;
    place(shard_bytes);
    return std::move(out_);
  }

 private:
  // What the model does not use stays as it is, but for what follows from the rest or is a copy of it.
  bool leaves_out(const std::string& name) {
    if (is_prediction_copy(config_, name)) return true;
    const bool follows = name.ends_with(".rotary_emb.inv_freq") || (config_.tied && name == kHeadWeight);
    if (notice_)
      notice_(fmt::format("{}: tensor {} is not used by the model and {}", checkpoint_.where(name), name,
                          follows ? "is left out" : "stays as it is"));
    return follows;
  }

  void check_sparse(const Job& job) const {
    if (!job.spec->sparse || job.info->shape[1] % kSparseGroup == 0) return;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: tensor {}: 2:4 sparsity needs a width that is a multiple of 4, found {}",
                            checkpoint_.where(job.info->name), job.info->name, job.info->shape[1]));
  }

  Job* find(const std::string& name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : found->second;
  }
  // The projection of a layer's attention; null: it has none.
  [[nodiscard]] const LinearOp* attention_linear(int layer, Projection projection) const {
    for (const Op& op : plan_.ops) {
      const auto* const linear = op.as<LinearOp>();
      if (linear != nullptr && op.layer == layer && linear->role == Role{ModelPart::kAttention, projection})
        return linear;
    }
    return nullptr;
  }

  static std::optional<int> largest_rotation(std::int64_t width) {
    for (const int block : {128, 64, 32, 16}) {
      if (width % block == 0) return block;
    }
    return std::nullopt;
  }

  // Attention passes values on as they are: where a block lies within a head, those that read its
  // output are rotated by those that made its values.
  void fold(const Op& op) {
    const auto* const attention = op.as<AttentionOp>();
    if (attention == nullptr) return;
    // Other layers' read them too.
    const bool shared = std::any_of(plan_.ops.begin(), plan_.ops.end(), [&](const Op& other) {
      const auto* const reads = other.as<AttentionOp>();
      return reads != nullptr && reads->source == op.layer;
    });
    if (shared) return;
    const LinearOp* const values = attention_linear(op.layer, Projection::kValue);
    const LinearOp* const reader = attention_linear(op.layer, Projection::kOutput);
    if (values == nullptr || reader == nullptr) return;
    Job* const after = find(reader->weight);
    Job* const before = find(values->weight);
    if (after == nullptr || before == nullptr || !before->spec || !after->spec ||
        after->method != QuantizeMethod::kMrGptq) {
      return;
    }
    const int block =
        after->spec->rotation != 0 ? after->spec->rotation : largest_rotation(attention->head_dim).value_or(0);
    if (block == 0 || attention->head_dim % block != 0) return;
    after->folded_rotation = before->output_rotation = block;
    after->spec->rotation = 0;
    if (Job* const bias = find(values->bias)) bias->output_rotation = block;
  }

  void rotate(Job& job) const {
    if (!job.spec || job.method != QuantizeMethod::kMrGptq || job.folded_rotation != 0) return;
    if (job.planned.embedding_or_head()) {
      job.spec->rotation = 0;
      return;
    }
    // Latent attention multiplies by this weight from both sides: it is not rotated.
    if (job.planned.role.projection == Projection::kLatentUp) {
      job.method = QuantizeMethod::kGptq;
      job.spec->rotation = 0;
      return;
    }
    const std::int64_t width = job.info->shape[1];
    if (job.spec->rotation == 0) job.spec->rotation = largest_rotation(width).value_or(16);
    if (width % job.spec->rotation == 0) return;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: tensor {}: rotation in blocks of {} does not divide its width, {}",
                            checkpoint_.where(job.info->name), job.info->name, job.spec->rotation, width));
  }

  void place(std::size_t shard_bytes) {
    std::size_t shard = 0;
    std::size_t filled = 0;
    for (Job& job : out_.jobs) {
      if (job.spec) {
        const std::string module = module_name(job.info->name);
        job.entries = packed_tensor_plans(out_.scheme, module, out_.modules.at(module));
      } else {  // a kept tensor that the source holds packed is written in f16
        job.entries = {{job.info->name, job.info->packed ? DType::kF16 : job.info->dtype, job.info->shape}};
      }
      for (const TensorPlan& entry : job.entries) job.bytes += entry.bytes();
      if (filled > 0 && filled + job.bytes > shard_bytes) {
        ++shard;
        filled = 0;
      }
      job.shard = shard;
      filled += job.bytes;
    }
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const Plan& plan_;
  std::span<const Plan> predictions_;
  const std::function<void(const std::string&)>& notice_;
  JobPlan out_;
  std::map<std::string, Job*> by_name_;
};

}  // namespace

const Job& JobPlan::find(const std::string& weight) const {
  const auto found = std::lower_bound(jobs.begin(), jobs.end(), weight,
                                      [](const Job& job, const std::string& name) { return job.info->name < name; });
  if (found == jobs.end() || found->info->name != weight)
    throw Error(ErrorCode::kInternal, fmt::format("tensor {} is not planned", weight));
  return *found;
}

std::string JobPlan::shard_name(std::size_t shard) const {
  return fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards());
}

std::string module_name(const std::string& weight) {
  return weight.substr(0, weight.size() - kWeightSuffix.size());
}

JobPlan plan_jobs(const Checkpoint& checkpoint, const ModelConfig& config, const Plan& plan,
                  std::span<const Plan> predictions,
                  const std::function<std::optional<WeightChoice>(const PlannedWeight& weight)>& choose,
                  std::size_t shard_bytes, const std::function<void(const std::string&)>& notice) {
  return Planner(checkpoint, config, plan, predictions, notice).run(choose, shard_bytes);
}

}  // namespace metal_marlin
