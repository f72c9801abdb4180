// A plan compiled for the CPU: neighbouring ops fused into steps, weights bound,
// workspace laid out.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "backends/backend.h"
#include "backends/cpu/low_rank.h"
#include "backends/cpu/panel_matrix.h"
#include "ops/fuse.h"

namespace metal_marlin::cpu {

struct EmbeddingStep {
  const PanelMatrix* weight;
  BufferId out;
  const LowRankRowsSet* low_ranks = nullptr;  // null: no adapter changes it
};

struct NormStep {
  BufferId in;
  BufferId out;
  const float* weight;
  std::int64_t width;
  float eps;
  NormKind kind;
};

struct ScaleStep {
  BufferId x;
  float factor;
  float soft_cap;
};

// One matrix of a LinearStep; with a gate the output is activation(gate x) * (matrix x).
struct LinearPart {
  const PanelMatrix* matrix;
  const PanelMatrix* gate = nullptr;
  const float* bias = nullptr;
  const float* gate_bias = nullptr;
  BufferId out = -1;
  bool accumulate = false;
  LinearInput input = LinearInput::kF32;
  GateForm form = {};
};

// Linears that read the same input, with the norm and the rotation before them.
struct LinearStep {
  BufferId in;
  const float* norm = nullptr;  // null: none
  float eps = 0;
  NormKind norm_kind = NormKind::kRms;
  int rotation = 0;  // block; 0: none
  std::vector<LinearPart> parts;
  // Of each part its matrix' and its gate's, null where no adapter changes them; empty: none changes any.
  std::vector<const LowRankSet*> low_ranks = {};
};

// Attention with the head norms and rotations before it.
struct AttentionStep {
  AttentionOp op;
  int layer = 0;
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  float eps = 0;
  const RopeOp* q_rope = nullptr;  // null: none
  const RopeOp* k_rope = nullptr;
  const float* sinks = nullptr;  // null: none
};

// A latent attention's expansion, by head.
struct HeadMatrices {
  std::vector<std::unique_ptr<PanelMatrix>> keys;
  std::vector<std::unique_ptr<PanelMatrix>> values;
};

struct LatentAttentionStep {
  LatentAttentionOp op;
  int layer;
  const float* norm;
  const HeadMatrices* heads;
};

struct Expert {
  const PanelMatrix* gate;
  const PanelMatrix* up;
  const PanelMatrix* down;
  const float* gate_bias;  // null: none, here and below
  const float* up_bias;
  const float* down_bias;
  LinearInput input;         // of gate and up
  LinearInput active_input;  // of down
};

struct MoeStep {
  MoeOp op;
  int layer;
  const float* router_bias;    // null: none
  const float* expert_scales;  // null: all 1
  std::vector<Expert> experts = {};
  // The forms, besides f32, that some expert wants its inputs in.
  bool in_q8 = false;
  bool in_bf16 = false;
  bool active_q8 = false;
  bool active_bf16 = false;
};

// What an op is in a program: itself, where no weight is to be bound.
template <typename T>
struct StepOf {
  using Type = T;
};
template <>
struct StepOf<EmbeddingOp> {
  using Type = EmbeddingStep;
};
template <>
struct StepOf<NormOp> {
  using Type = NormStep;
};
template <>
struct StepOf<ScaleOp> {
  using Type = ScaleStep;
};
template <>
struct StepOf<LinearOp> {
  using Type = LinearStep;
};
template <>
struct StepOf<AttentionOp> {
  using Type = AttentionStep;
};
template <>
struct StepOf<LatentAttentionOp> {
  using Type = LatentAttentionStep;
};
template <>
struct StepOf<MoeOp> {
  using Type = MoeStep;
};

template <typename T>
struct StepsOf;
template <typename... T>
struct StepsOf<std::variant<T...>> {
  using Type = std::variant<typename StepOf<T>::Type...>;
};
using Step = StepsOf<OpBody>::Type;

// What errors say of a step.
struct StepNote {
  std::string ops;                // "norm A, linear B"
  std::vector<BufferId> buffers;  // that it reads or writes
};

struct Program {
  Plan plan;
  std::vector<Step> steps;
  std::vector<StepNote> notes;      // one a step
  std::vector<Lifetime> lifetimes;  // of the plan's buffers, in steps
  std::map<std::string, std::shared_ptr<const PanelMatrix>> matrices;
  std::set<std::string> shared;  // of these: another program's
  std::map<std::string, HeadMatrices> expansions;
  std::map<std::string, std::vector<float>> vectors;
  std::shared_ptr<const LowRanks> low_ranks;  // null: there are no adapters
  LowRankSizes low_rank_sizes;
  std::vector<float> ones;  // of norms without a weight
  // Widest input of a linear, rounded up to whole blocks, and scratch per thread.
  std::int64_t widest_input = 0;
  std::int64_t linear_scratch = 0;
};

// Where each buffer lies in a workspace, in floats; -1 for buffers that fusion
// made unnecessary.
struct WorkspaceLayout {
  std::vector<std::int64_t> offsets;
  std::int64_t floats = 0;
};

// What the steps of every program can do.
Capabilities capabilities();

GateForm gate_of(GateActivation activation, const GateClamp& clamp);

// Loads the weights and fuses, for these kernels. \param shared a program whose matrices are not loaded again, or null
// \param adapters of the plan, that sequences may have
// \throws Error (kCancelled) when progress says so.
Program compile(Plan plan, const Checkpoint& checkpoint, ThreadPool& pool, const Kernels& kernels,
                Activations activations, const LoadProgress& progress, const Program* shared = nullptr,
                std::span<const Adapter> adapters = {});
// The same without the weights' elements: not to run, but to know what it takes.
Program outline(Plan plan, const Checkpoint& checkpoint, const Kernels& kernels, Activations activations);

// The steps of another plan over the weights of a program, which must outlive it, and its adapters.
Program over_weights(Plan plan, const Program& weights, const Kernels& kernels, Activations activations);

// Buffers whose lifetimes do not meet share memory.
WorkspaceLayout lay_out(const Program& program, const RunnerLimits& limits);

}  // namespace metal_marlin::cpu
