// A step's ops as commands: which kernel computes each, over which buffers.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "backends/msl/msl_model.h"
#include "backends/msl/paged_attention.h"
#include "backends/msl/step_shapes.h"
#include "ops/fuse.h"

namespace metal_marlin::msl {

// What neighbours of a plan go into one step, but for what depends on weights.
inline const FuseCapabilities kFusion{.rotations = true};

// What steps read and write beside weights, on the device; a runner's.
struct StepBuffers {
  using Owned = std::unique_ptr<Buffer>;

  std::vector<Owned> plan;  // by BufferId
  CacheType cache = CacheType::kF32;
  std::vector<Owned> keys;    // of each layer
  std::vector<Owned> values;  // likewise; none where latent

  // Of a step's tokens.
  Owned tokens;
  Owned positions;
  Owned sequences;
  Owned selected;
  // Of each row its adapter, and what their inner products are kept in; none where the model has no adapters.
  Owned token_adapters;
  Owned selected_adapters;
  Owned low_rank_inner;
  // Of its sequences: a row of page numbers each, and where its queries and keys begin (PagedTiles).
  Owned tables;
  int table_rows = 0;
  int table_stride = 0;
  Owned q_starts;
  Owned k_starts;
  std::vector<Owned> frequencies;  // of the plan's rope tables

  std::optional<LinearWorkspace> linear;
  std::optional<LatentWorkspace> latent;
  std::optional<ExpertsWorkspace> experts;
  Owned partial;  // of attention's splits

  struct ChosenExperts {
    const MoeOp* op;
    Owned ids;
  };
  std::map<int, ChosenExperts> expert_ids;  // by layer
  Owned expert_weights;

  // What is observed is copied while the step runs.
  struct Observed {
    const ObserveOp* op;
    Owned rows;
  };
  std::vector<Observed> observed;  // in the order of the plan
  Owned all_rows;                  // their indices
  // A slice is a choice among pieces that all rows are made of.
  struct Sliced {
    const SliceOp* op;
    std::int64_t piece;  // elements
    Owned pieces;        // indices of those that are chosen
  };
  std::vector<Sliced> sliced;  // in the order of the plan
};

// Splits of a query's keys, at most.
inline constexpr std::uint32_t kMostSplits = 32;

PagedParams paged_params(const MslModel& model, Device& device, const StepBuffers& buffers, const AttentionOp& op,
                         std::int64_t tokens);

// A whole plan over the model's weights, but for what is drawn of its result. All must outlive the commands.
void encode_step(const MslModel& model, const Plan& plan, Device& device, StepBuffers& buffers, Commands& commands,
                 const StepShape& shape);

}  // namespace metal_marlin::msl
