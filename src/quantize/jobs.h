// What becomes of each weight of a model, and where it goes.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "io/packed_tensors.h"
#include "metal_marlin/quantize.h"
#include "models/config.h"
#include "ops/plan.h"

namespace metal_marlin {

// How a weight is asked to be quantized. MR-GPTQ's rotation is spec.rotation; 0: the largest that fits.
struct WeightChoice {
  FormatSpec spec;
  QuantizeMethod method = QuantizeMethod::kRtn;
};

struct Job {
  const WeightInfo* info = nullptr;
  PlannedWeight planned;
  std::optional<FormatSpec> spec;  // nothing: kept
  QuantizeMethod method = QuantizeMethod::kRtn;
  // Block of inputs that are rotated by the weights before this one, so that nothing rotates them at
  // run time; and of this one's outputs, rotated for a weight after it. 0: none.
  int folded_rotation = 0;
  int output_rotation = 0;
  std::vector<TensorPlan> entries;
  std::size_t bytes = 0;
  std::size_t shard = 0;

  // Of the inputs, at run time or folded.
  [[nodiscard]] int input_rotation() const {
    return folded_rotation != 0 ? folded_rotation : spec ? spec->rotation : 0;
  }
};

struct JobPlan {
  std::vector<Job> jobs;  // in order of name
  std::map<std::string, PackedModule> modules;
  std::vector<std::string> ignored;  // linear layers that stay dense
  PackScheme scheme = PackScheme::kMetalMarlin;
  std::int64_t weights = 0;

  [[nodiscard]] const Job& find(const std::string& weight) const;
  [[nodiscard]] std::size_t shards() const { return jobs.empty() ? 0 : jobs.back().shard + 1; }
  // The name of a shard's file.
  [[nodiscard]] std::string shard_name(std::size_t shard) const;
};

// "model.layers.0.mlp.up_proj" of its ".weight".
std::string module_name(const std::string& weight);

// predictions: plans of the layers for the next tokens, none where the checkpoint has none.
// choose: nothing for weights that are kept; asked only for those that may be quantized.
// \throws Error naming a weight that is missing, of another shape, or cannot be rotated so.
JobPlan plan_jobs(const Checkpoint& checkpoint, const ModelConfig& config, const Plan& plan,
                  std::span<const Plan> predictions,
                  const std::function<std::optional<WeightChoice>(const PlannedWeight& weight)>& choose,
                  std::size_t shard_bytes, const std::function<void(const std::string&)>& notice);

}  // namespace metal_marlin
