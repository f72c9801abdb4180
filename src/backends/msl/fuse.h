// Which of a plan's ops are encoded together, in one launch.
#pragma once

#include <functional>
#include <variant>
#include <vector>

#include "ops/plan.h"

namespace metal_marlin::msl {

// The rotations of queries and keys, after the norms of their heads if there are any.
struct RopesStep {
  const RopeOp* q;
  const RopeOp* k;
  const RmsNormOp* q_norm = nullptr;
  const RmsNormOp* k_norm = nullptr;
};

// Gate, up and their gated product, in one pass over the activations.
struct GateUpStep {
  const LinearOp* gate;
  const LinearOp* up;
  const SwigluOp* product;
};

// A product whose result is added to buffer `sum` and used no more.
struct AddedLinearStep {
  const LinearOp* linear;
  BufferId sum;
};

// A norm or a gated product whose result is made ready for `linear`, the op after it.
struct PreparedStep {
  std::variant<const RmsNormOp*, const SwigluOp*> op;
  const LinearOp* linear;
};

using Step = std::variant<const Op*, RopesStep, GateUpStep, AddedLinearStep, PreparedStep>;

// What depends on weights and on the size of a batch.
struct FuseOptions {
  std::function<bool(const LinearOp& gate, const LinearOp& up)> fuses;  // their kernel exists, and pays
  std::function<bool(const LinearOp& linear)> prepares;                 // reads its input in another type than f32
};

// The plan's ops in their order. Steps point into the plan.
std::vector<Step> fuse(const Plan& plan, const FuseOptions& options);

}  // namespace metal_marlin::msl
