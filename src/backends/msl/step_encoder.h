// A step's ops as commands: which kernel computes each, over which buffers.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "backends/msl/msl_model.h"
#include "backends/msl/paged_attention.h"
#include "backends/msl/rope.h"
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
};

// Splits of a query's keys, at most.
inline constexpr std::uint32_t kMostSplits = 32;

PagedParams paged_params(const MslModel& model, Device& device, const StepBuffers& buffers, const AttentionOp& op,
                         std::int64_t tokens);

// Encodes one step.
class StepEncoder {
 public:
  // All must outlive the commands.
  StepEncoder(const MslModel& model, Device& device, StepBuffers& buffers, Commands& commands, const StepShape& shape)
      : model_(model), plan_(model.plan()), device_(device), buffers_(buffers), commands_(commands), shape_(shape) {}

  // The whole plan, but for what is drawn of its result.
  void encode();

 private:
  [[nodiscard]] FuseCapabilities fusion() const;
  void run(const FusedStep& step, const SingleOp& form);
  void run(const FusedStep& step, const FusedHeads& form);
  void run(const FusedStep& step, const FusedLinears& form);
  void run_gate_up(const FusedLinears& form);
  void run_prepared(const Op& op, const LinearOp& reader);
  void run_linear(const LinearOp& op, BufferId out, bool accumulate);
  void run_rope(const RopeOp& op, const RopeOp* k, const std::optional<HeadNorms>& norms);
  void run(const EmbeddingOp& op);
  void run(const RmsNormOp& op);
  void run(const LinearOp& op) { run_linear(op, op.out, false); }
  void run(const RopeOp& op) { run_rope(op, nullptr, std::nullopt); }
  void run(const AttentionOp& op);
  void run(const LatentAttentionOp& op);
  void run(const MoeOp& op);
  void run(const SwigluOp& op);
  void run(const AddOp& op);
  void run(const HadamardOp& op);
  void run(const SelectOp& op);
  void run(const InputOp&) {}  // uploaded with the batch
  void run(const ObserveOp& op);
  void written(const FusedStep& step);

  [[nodiscard]] std::int64_t width(BufferId id) const { return plan_.width(id); }
  [[nodiscard]] Buffer& buffer(BufferId id) const { return *buffers_.plan[static_cast<std::size_t>(id)]; }
  [[nodiscard]] Buffer& frequencies(int rope) const { return *buffers_.frequencies[static_cast<std::size_t>(rope)]; }
  [[nodiscard]] std::int64_t rows(BufferId id) const {
    return plan_.buffers[static_cast<std::size_t>(id)].selected ? shape_.selected : shape_.tokens;
  }
  [[nodiscard]] PagedBuffers paged_buffers() const;

  const MslModel& model_;
  const Plan& plan_;
  Device& device_;
  StepBuffers& buffers_;
  Commands& commands_;
  StepShape shape_;
  int layer_ = -1;  // of the op
  // The buffer whose activations the workspace holds prepared, and as what.
  BufferId ready_ = -1;
  DType ready_type_ = DType::kF32;
  std::size_t observed_ = 0;  // ObserveOps so far
};

}  // namespace metal_marlin::msl
