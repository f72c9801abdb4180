// Which of a plan's ops run together: neighbours that a backend can compute in one step, without storing
// what they hand to each other.
#pragma once

#include <functional>
#include <span>
#include <variant>
#include <vector>

#include "ops/plan.h"

namespace metal_marlin {

// An op by itself.
struct SingleOp {
  const LinearOp* reader = nullptr;  // the next op, for which this one's result is to be prepared; null: stored alone
};

// Products of the same input, with what makes their input, and what is made of their results.
struct FusedLinears {
  const NormOp* norm = nullptr;
  const HadamardOp* rotation = nullptr;
  std::vector<const LinearOp*> linears;
  const GatedOp* product = nullptr;  // of two: gate and up
  const AddOp* sum = nullptr;        // of one
  BufferId in = -1;                  // what norm, rotation or linears read
};

// The norms of queries' and keys' heads, their rotations, and the attention that reads them; any may be missing.
struct FusedHeads {
  const NormOp* q_norm = nullptr;
  const NormOp* k_norm = nullptr;
  const RopeOp* q_rope = nullptr;
  const RopeOp* k_rope = nullptr;
  const AttentionOp* attention = nullptr;
};

struct FusedStep {
  std::span<const Op> ops;      // in the plan, in their order
  std::vector<BufferId> inner;  // written and read by them alone: may stay out of memory
  std::variant<SingleOp, FusedLinears, FusedHeads> form;

  [[nodiscard]] int layer() const { return ops.back().layer; }
  // What it reads and writes in memory.
  [[nodiscard]] std::vector<BufferId> buffers() const;
};

// What a backend computes in one step.
struct FuseCapabilities {
  bool linear_inputs = false;  // a norm and a rotation before linears
  bool linear_groups = false;  // any number of linears that read the same
  bool attention = false;      // head norms and rotations, in any order, and the attention after them
  bool rotations = false;      // the rotations of queries and keys, and both their norms before them
  // Gate, up and their gated product. Null: never.
  std::function<bool(const LinearOp& gate, const LinearOp& up, const GatedOp& product)> gate_up = {};
  // A norm or a gated product also prepares the input of this linear, the op after it. Null: never.
  std::function<bool(const LinearOp& linear)> prepares = {};
};

// Every op is in one step, in order. Steps point into the plan.
std::vector<FusedStep> fuse(const Plan& plan, const FuseCapabilities& capabilities);

// The steps from the first that a buffer is used in to the last; outputs live past all of them.
struct Lifetime {
  int first = -1;  // -1: in none
  int last = -1;
};
std::vector<Lifetime> lifetimes(const Plan& plan, std::span<const FusedStep> steps);

}  // namespace metal_marlin
