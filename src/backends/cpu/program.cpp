#include "backends/cpu/program.h"

#include <algorithm>

#include "backends/cpu/step_context.h"
#include "base/overloaded.h"

namespace metal_marlin::cpu {
namespace {

class Compiler {
 public:
  // weights: the program that has them, or will.
  Compiler(Program& program, const Program& weights, const Kernels& kernels, Activations activations)
      : program_(program), weights_(weights), kernels_(kernels), activations_(activations) {}

  // pool: null for an outline; shared: what has some of the matrices already, or null.
  void load(const Checkpoint& checkpoint, ThreadPool* pool, const LoadProgress& progress, const Program* shared) {
    for (const Op& op : program_.plan.ops) {
      if (const auto* const latent = op.as<LatentAttentionOp>()) expansions_[latent->expand] = latent;
    }
    program_.ones.assign(static_cast<std::size_t>(widest_bare_norm(program_.plan)), 1.0F);
    load_weights(program_.plan, checkpoint, progress,
                 [&](const PlannedWeight& planned) { load(planned, checkpoint, pool, shared); });
  }

  void bind_steps() {
    const std::vector<FusedStep> fused = fuse(program_.plan, fusion());
    for (const FusedStep& step : fused) {
      program_.steps.push_back(bind(step));
      program_.notes.push_back({describe_ops(step.ops), step.buffers()});
    }
    program_.lifetimes = lifetimes(program_.plan, fused);
    if (program_.low_ranks) program_.low_rank_sizes.rank = program_.low_ranks->most_rank();
    for (const Step& step : program_.steps) {
      if (const auto* const embedding = std::get_if<EmbeddingStep>(&step)) measure(*embedding);
      if (const auto* const linear = std::get_if<LinearStep>(&step)) measure(*linear);
      if (const auto* const moe = std::get_if<MoeStep>(&step)) measure(*moe);
      if (const auto* const latent = std::get_if<LatentAttentionStep>(&step)) measure(*latent);
    }
  }

 private:
  static std::string describe_ops(std::span<const Op> ops) {
    std::string out;
    for (const Op& op : ops) out += (out.empty() ? "" : ", ") + describe(op);
    return out;
  }

  void load(const PlannedWeight& planned, const Checkpoint& checkpoint, ThreadPool* pool, const Program* shared) {
    if (!planned.matrix) {
      program_.vectors[planned.name] = pool != nullptr ? load_vector(checkpoint, planned, *pool)
                                                       : std::vector<float>(static_cast<std::size_t>(planned.shape[0]));
      return;
    }
    if (shared != nullptr && shared->matrices.contains(planned.name)) {
      program_.matrices[planned.name] = shared->matrices.at(planned.name);
      program_.shared.insert(planned.name);
      return;
    }
    const std::int64_t cols = planned.shape[1];
    if (pool == nullptr) {
      const WeightInfo& info = checkpoint.require(planned.name, planned.shape);
      place(planned, [&](std::int64_t, std::int64_t rows) { return std::make_unique<PanelMatrix>(info, rows, cols); });
      return;
    }
    const Weight weight = checkpoint.load(planned.name, *pool);
    place(planned, [&](std::int64_t first, std::int64_t rows) {
      return std::make_unique<PanelMatrix>(weight.rows(first, rows), rows, cols, *pool);
    });
  }

  // part(first, rows) makes a matrix of some of the weight's rows.
  template <typename Part>
  void place(const PlannedWeight& planned, const Part& part) {
    const auto expansion = expansions_.find(planned.name);
    if (expansion == expansions_.end()) {
      program_.matrices[planned.name] = part(0, planned.shape[0]);
      return;
    }
    const LatentAttentionOp& op = *expansion->second;
    HeadMatrices& heads = program_.expansions[planned.name];
    const std::int64_t head_rows = op.nope_dim + op.value_dim;
    for (std::int64_t head = 0; head < op.heads; ++head) {
      heads.keys.push_back(part(head * head_rows, op.nope_dim));
      heads.values.push_back(part(head * head_rows + op.nope_dim, op.value_dim));
    }
  }

  [[nodiscard]] const float* vector(const std::string& name) const {
    return name.empty() ? nullptr : weights_.vectors.at(name).data();
  }
  [[nodiscard]] const float* norm_weight(const NormOp& op) const {
    return op.weight.empty() ? weights_.ones.data() : vector(op.weight);
  }
  [[nodiscard]] const PanelMatrix* matrix(const std::string& name) const { return weights_.matrices.at(name).get(); }
  [[nodiscard]] LinearInput input_of(const PanelMatrix* m) const {
    if (activations_ == Activations::kF32) return LinearInput::kF32;
    if (m->view().integer) return LinearInput::kQ8;
    return m->view().kind == PanelKind::kBf16 && kernels_.linear_bf16 != nullptr ? LinearInput::kBf16
                                                                                 : LinearInput::kF32;
  }

  [[nodiscard]] LinearInput input_of(const LinearOp& op) const {
    return op.exact ? LinearInput::kF32 : input_of(matrix(op.weight));
  }

  [[nodiscard]] FuseCapabilities fusion() const {
    FuseCapabilities out = capabilities().fusion;
    out.gate_up = [this](const LinearOp& gate, const LinearOp& up, const GatedOp&) {
      return input_of(matrix(gate.weight)) == input_of(matrix(up.weight));
    };
    return out;
  }

  [[nodiscard]] Step bind(const FusedStep& step) const {
    return std::visit(Overloaded{[&](const SingleOp&) { return bind(step.ops.front()); },
                                 [&](const FusedLinears& fused) -> Step { return bind(fused); },
                                 [&](const FusedHeads& fused) -> Step { return bind(fused, step.layer()); }},
                      step.form);
  }

  [[nodiscard]] Step bind(const Op& op) const {
    return std::visit(
        Overloaded{
            [&](const EmbeddingOp& o) -> Step {
              return EmbeddingStep{matrix(o.weight), o.out,
                                   program_.low_ranks ? program_.low_ranks->of_embedding(o.weight) : nullptr};
            },
            [&](const NormOp& o) -> Step { return NormStep{o.in, o.out, norm_weight(o), o.width, o.eps, o.kind}; },
            [&](const ScaleOp& o) -> Step {
              return ScaleStep{o.x, o.factor * (o.weight.empty() ? 1 : *vector(o.weight)), o.soft_cap};
            },
            [&](const LinearOp& o) -> Step { return bind(FusedLinears{.linears = {&o}, .in = o.in}); },
            [&](const AttentionOp& o) -> Step { return bind(FusedHeads{.attention = &o}, op.layer); },
            [&](const LatentAttentionOp& o) -> Step {
              return LatentAttentionStep{o, op.layer, vector(o.norm), &weights_.expansions.at(o.expand)};
            },
            [&](const MoeOp& o) -> Step { return bind(o, op.layer); }, [](const auto& o) -> Step { return o; }},
        op.body);
  }

  [[nodiscard]] AttentionStep bind(const FusedHeads& fused, int layer) const {
    AttentionStep step{*fused.attention, layer};
    if (fused.q_norm != nullptr) step.q_norm = norm_weight(*fused.q_norm);
    if (fused.k_norm != nullptr) step.k_norm = norm_weight(*fused.k_norm);
    if (const NormOp* const norm = fused.q_norm != nullptr ? fused.q_norm : fused.k_norm) step.eps = norm->eps;
    step.q_rope = fused.q_rope;
    step.k_rope = fused.k_rope;
    step.sinks = vector(fused.attention->sinks);
    return step;
  }

  [[nodiscard]] LinearStep bind(const FusedLinears& fused) const {
    LinearStep step{};
    step.in = fused.in;
    if (fused.rotation != nullptr) step.rotation = fused.rotation->block;
    if (fused.norm != nullptr) {
      step.norm = norm_weight(*fused.norm);
      step.eps = fused.norm->eps;
      step.norm_kind = fused.norm->kind;
    }
    if (fused.product != nullptr) {
      const LinearOp& gate = *fused.linears[0];
      const LinearOp& up = *fused.linears[1];
      step.parts.push_back({matrix(up.weight), matrix(gate.weight), vector(up.bias), vector(gate.bias),
                            fused.product->out, false, input_of(matrix(up.weight)),
                            gate_of(fused.product->activation, fused.product->clamp)});
      add_low_ranks(step, {low_rank(up.weight), low_rank(gate.weight)});
      return step;
    }
    for (const LinearOp* const op : fused.linears) {
      const BufferId out = fused.sum != nullptr ? fused.sum->x : op->out;
      step.parts.push_back(
          {matrix(op->weight), nullptr, vector(op->bias), nullptr, out, fused.sum != nullptr, input_of(*op)});
    }
    std::vector<const LowRankSet*> sets;
    for (const LinearOp* const op : fused.linears) sets.insert(sets.end(), {low_rank(op->weight), nullptr});
    add_low_ranks(step, std::move(sets));
    return step;
  }

  // Null: no adapter changes the weight.
  [[nodiscard]] const LowRankSet* low_rank(const std::string& weight) const {
    return program_.low_ranks ? program_.low_ranks->of(weight) : nullptr;
  }
  static void add_low_ranks(LinearStep& step, std::vector<const LowRankSet*> sets) {
    const auto is_set = [](const LowRankSet* set) { return set != nullptr; };
    if (std::any_of(sets.begin(), sets.end(), is_set)) step.low_ranks = std::move(sets);
  }

  [[nodiscard]] MoeStep bind(const MoeOp& op, int layer) const {
    MoeStep step{op, layer, vector(op.router_bias), vector(op.expert_scales)};
    for (std::int64_t i = 0; i < op.experts; ++i) {
      Expert expert{matrix(expert_weight(op, i, "gate")),
                    matrix(expert_weight(op, i, "up")),
                    matrix(expert_weight(op, i, "down")),
                    vector(expert_bias(op, i, "gate")),
                    vector(expert_bias(op, i, "up")),
                    vector(expert_bias(op, i, "down")),
                    LinearInput::kF32,
                    LinearInput::kF32};
      // Gate and up are multiplied together: both by what every format can be multiplied by, if they differ.
      if (input_of(expert.gate) == input_of(expert.up)) expert.input = input_of(expert.up);
      expert.active_input = input_of(expert.down);
      step.in_q8 |= expert.input == LinearInput::kQ8;
      step.in_bf16 |= expert.input == LinearInput::kBf16;
      step.active_q8 |= expert.active_input == LinearInput::kQ8;
      step.active_bf16 |= expert.active_input == LinearInput::kBf16;
      step.experts.push_back(expert);
    }
    return step;
  }

  void measure(const EmbeddingStep& step) {
    if (step.low_ranks == nullptr) return;
    program_.low_rank_sizes.products = std::max<std::int64_t>(program_.low_rank_sizes.products, 1);
  }

  void measure(const LinearStep& step) {
    for (const LinearPart& part : step.parts) {
      std::int64_t scratch = scratch_floats(part.matrix->view());
      if (part.gate != nullptr) scratch += scratch_floats(part.gate->view());
      program_.linear_scratch = std::max(program_.linear_scratch, scratch);
      program_.widest_input = std::max(program_.widest_input, part.matrix->view().blocks * kBlock);
      if (!step.low_ranks.empty() && part.gate != nullptr)
        program_.low_rank_sizes.gate = std::max(program_.low_rank_sizes.gate, program_.plan.width(part.out));
    }
    program_.low_rank_sizes.products =
        std::max(program_.low_rank_sizes.products, static_cast<std::int64_t>(step.low_ranks.size()));
  }

  void measure(const MoeStep& step) {
    for (const Expert& expert : step.experts) {
      program_.linear_scratch =
          std::max({program_.linear_scratch, scratch_floats(expert.up->view()) + scratch_floats(expert.gate->view()),
                    scratch_floats(expert.down->view())});
    }
  }

  void measure(const LatentAttentionStep& step) {
    for (const auto* const matrices : {&step.heads->keys, &step.heads->values}) {
      for (const auto& m : *matrices)
        program_.linear_scratch = std::max(program_.linear_scratch, scratch_floats(m->view()));
    }
  }

  Program& program_;
  const Program& weights_;
  const Kernels& kernels_;
  Activations activations_;
  std::map<std::string, const LatentAttentionOp*> expansions_;  // by weight
};

}  // namespace

Capabilities capabilities() {
  Capabilities out;
  out.fusion.linear_inputs = out.fusion.linear_groups = out.fusion.attention = true;
  out.angles_by_sequence = true;
  return out;
}

GateForm gate_of(GateActivation activation, const GateClamp& clamp) {
  switch (activation) {
    case GateActivation::kSilu: return {Gate::kSilu};
    case GateActivation::kGeluTanh: return {Gate::kGeluTanh};
    case GateActivation::kGelu: return {Gate::kGelu};
    case GateActivation::kClamped: break;
  }
  return {Gate::kClamped, clamp.alpha, clamp.limit};
}

Program compile(Plan plan, const Checkpoint& checkpoint, ThreadPool& pool, const Kernels& kernels,
                Activations activations, const LoadProgress& progress, const Program* shared,
                std::span<const Adapter> adapters) {
  Program program;
  program.plan = std::move(plan);
  Compiler compiler(program, program, kernels, activations);
  compiler.load(checkpoint, &pool, progress, shared);
  if (!adapters.empty()) program.low_ranks = std::make_shared<const LowRanks>(adapters, pool);
  compiler.bind_steps();
  return program;
}

Program outline(Plan plan, const Checkpoint& checkpoint, const Kernels& kernels, Activations activations) {
  Program program;
  program.plan = std::move(plan);
  Compiler compiler(program, program, kernels, activations);
  compiler.load(checkpoint, nullptr, {}, nullptr);
  compiler.bind_steps();
  return program;
}

Program over_weights(Plan plan, const Program& weights, const Kernels& kernels, Activations activations) {
  Program program;
  program.plan = std::move(plan);
  program.low_ranks = weights.low_ranks;
  Compiler(program, weights, kernels, activations).bind_steps();
  return program;
}

WorkspaceLayout lay_out(const Program& program, const RunnerLimits& limits) {
  struct Block {
    std::size_t buffer;
    int first;
    int last;
    std::int64_t size;
  };
  std::vector<Block> blocks(program.plan.buffers.size());
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const Buffer& buffer = program.plan.buffers[i];
    const std::int64_t rows = buffer.selected ? limits.selected : limits.tokens;
    blocks[i] = {i, program.lifetimes[i].first, program.lifetimes[i].last, round_up(rows * buffer.width, 16)};
  }
  WorkspaceLayout layout;
  layout.offsets.assign(blocks.size(), -1);
  std::erase_if(blocks, [](const Block& block) { return block.first < 0; });
  std::sort(blocks.begin(), blocks.end(), [](const Block& a, const Block& b) { return a.size > b.size; });
  std::vector<Block> placed;
  for (const Block& block : blocks) {
    std::int64_t offset = 0;
    for (bool moved = true; moved;) {  // past every placed block that lives at the same time
      moved = false;
      for (const Block& other : placed) {
        const std::int64_t at = layout.offsets[other.buffer];
        const bool together = block.first <= other.last && other.first <= block.last;
        if (together && offset < at + other.size && at < offset + block.size) {
          offset = at + other.size;
          moved = true;
        }
      }
    }
    layout.offsets[block.buffer] = offset;
    layout.floats = std::max(layout.floats, offset + block.size);
    placed.push_back(block);
  }
  return layout;
}

}  // namespace metal_marlin::cpu
