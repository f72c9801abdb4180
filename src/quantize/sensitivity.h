// What each candidate format costs each weight of a model, measured on a text.
#pragma once

#include <filesystem>
#include <functional>
#include <vector>

#include "backends/backend.h"
#include "io/checkpoint.h"
#include "metal_marlin/tokenizer.h"
#include "ops/plan.h"
#include "quantize/allocation.h"

namespace metal_marlin {

class ThreadPool;

struct SensitivityCall {
  const Checkpoint& checkpoint;
  const Backend& backend;
  const Plan& plan;
  std::vector<TokenId> ids;
  std::int64_t context;
  std::filesystem::path scratch;  // a folder
  std::vector<FormatSpec> candidates;
  std::function<bool(const std::string& weight)> wanted;
  std::function<void(int layer)> progress;
};

// A layer's share of the loss is the KL divergence of the model with all of that layer's wanted weights in
// a coarse format from the model as it is; it is split by how far each unit alone moves the layer's
// output, and goes with a format as the error of the unit's own outputs does. Weights that no token
// reached get the mean error of their layer's like.
std::vector<AllocationUnit> measure_sensitivity(const SensitivityCall& call, ThreadPool& pool);

}  // namespace metal_marlin
