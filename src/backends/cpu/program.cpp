#include "backends/cpu/program.h"

#include <fmt/format.h>

#include <algorithm>

#include "metal_marlin/error.h"

namespace metal_marlin::cpu {
namespace {

class Compiler {
 public:
  Compiler(Program& program, const Checkpoint& checkpoint, ThreadPool& pool, const Kernels& kernels,
           Activations activations, const LoadProgress& progress)
      : program_(program),
        checkpoint_(checkpoint),
        pool_(pool),
        kernels_(kernels),
        activations_(activations),
        progress_(progress) {}

  void run() {
    for (const Op& op : ops()) {
      if (const auto* const latent = std::get_if<LatentAttentionOp>(&op)) expansions_[latent->expand] = latent;
    }
    load_weights(program_.plan, checkpoint_, progress_, [this](const PlannedWeight& planned) { load(planned); });
    for (at_ = 0; at_ < ops().size();) {
      const std::size_t first = at_;
      fuse_next();
      program_.names.push_back(describe_ops(first, at_));
    }
    for (const Step& step : program_.steps) {
      if (const auto* const linear = std::get_if<LinearStep>(&step)) measure(*linear);
      if (const auto* const moe = std::get_if<MoeStep>(&step)) measure(*moe);
      if (const auto* const latent = std::get_if<LatentAttentionStep>(&step)) measure(*latent);
    }
  }

 private:
  [[nodiscard]] const std::vector<Op>& ops() const { return program_.plan.ops; }
  template <typename T>
  [[nodiscard]] const T* peek(std::size_t ahead) const {
    return at_ + ahead < ops().size() ? std::get_if<T>(&ops()[at_ + ahead]) : nullptr;
  }
  [[nodiscard]] std::int64_t width(BufferId id) const {
    return program_.plan.buffers[static_cast<std::size_t>(id)].width;
  }

  // "rms_norm A, linear B"
  [[nodiscard]] std::string describe_ops(std::size_t first, std::size_t end) const {
    std::string out;
    for (std::size_t i = first; i < end; ++i) out += (i == first ? "" : ", ") + metal_marlin::describe(ops()[i]);
    return out;
  }

  // Whether no op from `from` on reads the buffer before writing it anew; a
  // fused step may then drop it.
  [[nodiscard]] bool dead_after(BufferId id, std::size_t from) const {
    const auto holds = [id](const std::vector<BufferId>& ids) {
      return std::find(ids.begin(), ids.end(), id) != ids.end();
    };
    for (std::size_t i = from; i < ops().size(); ++i) {
      if (holds(read_buffers(ops()[i]))) return false;
      if (holds(written_buffers(ops()[i]))) return true;
    }
    return id != program_.plan.logits;
  }

  void load(const PlannedWeight& planned) {
    if (!planned.matrix) {
      program_.vectors[planned.name] = load_vector(checkpoint_, planned, pool_);
      return;
    }
    const Weight weight = checkpoint_.load(planned.name, pool_);
    const auto expansion = expansions_.find(planned.name);
    if (expansion == expansions_.end()) {
      program_.matrices[planned.name] =
          std::make_unique<PanelMatrix>(planned.name, weight, planned.shape[0], planned.shape[1], pool_);
    } else {
      load_expansion(*expansion->second, planned.name, weight);
    }
  }

  void load_expansion(const LatentAttentionOp& op, const std::string& name, const Weight& weight) {
    HeadMatrices& heads = program_.expansions[name];
    const auto part = [&](std::int64_t first, std::int64_t rows) {
      return std::make_unique<PanelMatrix>(name, weight.rows(first, rows), rows, op.rank, pool_);
    };
    const std::int64_t head_rows = op.nope_dim + op.value_dim;
    for (std::int64_t head = 0; head < op.heads; ++head) {
      heads.keys.push_back(part(head * head_rows, op.nope_dim));
      heads.values.push_back(part(head * head_rows + op.nope_dim, op.value_dim));
    }
  }

  [[nodiscard]] const float* vector(const std::string& name) const {
    return name.empty() ? nullptr : program_.vectors.at(name).data();
  }
  [[nodiscard]] const PanelMatrix* matrix(const std::string& name) const { return program_.matrices.at(name).get(); }
  [[nodiscard]] LinearInput input_of(const PanelMatrix* m) const {
    if (activations_ == Activations::kF32) return LinearInput::kF32;
    if (m->view().integer) return LinearInput::kQ8;
    return m->view().kind == PanelKind::kBf16 && kernels_.linear_bf16 != nullptr ? LinearInput::kBf16
                                                                                 : LinearInput::kF32;
  }

  [[nodiscard]] LinearInput input_of(const LinearOp& op) const {
    return op.exact ? LinearInput::kF32 : input_of(matrix(op.weight));
  }

  void fuse_next() {
    if (fuse_attention() || fuse_linears()) return;
    const Op& op = ops()[at_];
    if (const auto* const embedding = std::get_if<EmbeddingOp>(&op)) {
      program_.steps.emplace_back(EmbeddingStep{matrix(embedding->weight), embedding->out});
    } else if (const auto* const norm = std::get_if<RmsNormOp>(&op)) {
      program_.steps.emplace_back(NormStep{norm->in, norm->out, vector(norm->weight), norm->width, norm->eps});
    } else if (const auto* const latent = std::get_if<LatentAttentionOp>(&op)) {
      program_.steps.emplace_back(
          LatentAttentionStep{*latent, vector(latent->norm), &program_.expansions.at(latent->expand)});
    } else if (const auto* const moe = std::get_if<MoeOp>(&op)) {
      program_.steps.emplace_back(bind(*moe));
    } else if (const auto* const rope = std::get_if<RopeOp>(&op)) {
      program_.steps.emplace_back(*rope);
    } else if (const auto* const swiglu = std::get_if<SwigluOp>(&op)) {
      program_.steps.emplace_back(*swiglu);
    } else if (const auto* const add = std::get_if<AddOp>(&op)) {
      program_.steps.emplace_back(*add);
    } else if (const auto* const hadamard = std::get_if<HadamardOp>(&op)) {
      program_.steps.emplace_back(*hadamard);
    } else if (const auto* const select = std::get_if<SelectOp>(&op)) {
      program_.steps.emplace_back(*select);
    } else if (const auto* const input = std::get_if<InputOp>(&op)) {
      program_.steps.emplace_back(*input);
    } else if (const auto* const observe = std::get_if<ObserveOp>(&op)) {
      program_.steps.emplace_back(*observe);
    } else {
      throw Error(ErrorCode::kUnsupported, "the cpu backend has no kernel for: " + metal_marlin::describe(op));
    }
    ++at_;
  }

  [[nodiscard]] MoeStep bind(const MoeOp& op) const {
    MoeStep step{op, vector(op.correction), {}};
    for (std::int64_t i = 0; i < op.experts; ++i) {
      Expert expert{matrix(expert_weight(op, i, "gate")), matrix(expert_weight(op, i, "up")),
                    matrix(expert_weight(op, i, "down")), LinearInput::kF32, LinearInput::kF32};
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

  // [rms_norm q] [rms_norm k] [rope q] [rope k] attention, in any order.
  bool fuse_attention() {
    std::size_t length = 0;
    while (peek<RmsNormOp>(length) != nullptr || peek<RopeOp>(length) != nullptr) ++length;
    const auto* const attention = peek<AttentionOp>(length);
    if (attention == nullptr) return false;
    AttentionStep step;
    step.op = *attention;
    for (std::size_t i = 0; i < length; ++i) {
      if (const auto* const norm = peek<RmsNormOp>(i)) {
        const bool is_q = norm->in == attention->q;
        // A norm after a rotation of the same buffer is not what the step does.
        if (norm->in != norm->out || norm->width != attention->head_dim || (!is_q && norm->in != attention->k) ||
            (is_q ? step.rope_q : step.rope_k)) {
          return false;
        }
        (is_q ? step.q_norm : step.k_norm) = vector(norm->weight);
        step.eps = norm->eps;
      } else {
        const auto* const rope = peek<RopeOp>(i);
        const bool is_q = rope->x == attention->q;
        if (!is_q && rope->x != attention->k) return false;
        (is_q ? step.rope_q : step.rope_k) = true;
      }
    }
    program_.steps.emplace_back(step);
    at_ += length + 1;
    return true;
  }

  // [rms_norm] [hadamard] linear+ [swiglu] or [rms_norm] [hadamard] linear [add].
  bool fuse_linears() {
    std::size_t length = 0;
    const auto* const norm = peek<RmsNormOp>(0);
    if (norm != nullptr) ++length;
    const auto* const hadamard = peek<HadamardOp>(length);
    if (hadamard != nullptr) ++length;
    const auto* const first = peek<LinearOp>(length);
    if (first == nullptr || (norm != nullptr && norm->width != width(norm->in))) return false;
    if (hadamard != nullptr && first->in != hadamard->out) return false;
    if (norm != nullptr && norm->out != (hadamard != nullptr ? hadamard->in : first->in)) return false;
    LinearStep step;
    std::vector<const LinearOp*> linears;
    for (const LinearOp* op = first; op != nullptr && op->in == first->in; op = peek<LinearOp>(length)) {
      linears.push_back(op);
      ++length;
    }
    step.in = first->in;
    if (hadamard != nullptr) {
      if (!dead_after(hadamard->out, at_ + length)) return false;
      step.in = hadamard->in;
      step.rotation = hadamard->block;
    }
    if (norm != nullptr) {
      // Keep the norm apart where somebody else reads its result.
      if (!dead_after(norm->out, at_ + length)) return false;
      step.in = norm->in;
      step.norm = vector(norm->weight);
      step.eps = norm->eps;
    }
    const auto* const swiglu = peek<SwigluOp>(length);
    const auto* const add = peek<AddOp>(length);
    if (swiglu != nullptr && linears.size() == 2 && linears[0]->out == swiglu->gate && linears[1]->out == swiglu->up &&
        dead_after(swiglu->gate, at_ + length + 1) && dead_after(swiglu->up, at_ + length + 1)) {
      const PanelMatrix* const gate = matrix(linears[0]->weight);
      const PanelMatrix* const up = matrix(linears[1]->weight);
      if (input_of(gate) == input_of(up)) {
        step.parts.push_back(
            {up, gate, vector(linears[1]->bias), vector(linears[0]->bias), swiglu->out, false, input_of(up)});
        ++length;
      }
    } else if (add != nullptr && linears.size() == 1 && add->y == linears[0]->out &&
               dead_after(add->y, at_ + length + 1)) {
      const PanelMatrix* const m = matrix(linears[0]->weight);
      step.parts.push_back({m, nullptr, vector(linears[0]->bias), nullptr, add->x, true, input_of(*linears[0])});
      ++length;
    }
    if (step.parts.empty()) {
      for (const LinearOp* const op : linears) {
        step.parts.push_back({matrix(op->weight), nullptr, vector(op->bias), nullptr, op->out, false, input_of(*op)});
      }
    }
    program_.steps.emplace_back(std::move(step));
    at_ += length;
    return true;
  }

  void measure(const LinearStep& step) {
    for (const LinearPart& part : step.parts) {
      std::int64_t scratch = scratch_floats(part.matrix->view());
      if (part.gate != nullptr) scratch += scratch_floats(part.gate->view());
      program_.linear_scratch = std::max(program_.linear_scratch, scratch);
      program_.widest_input = std::max(program_.widest_input, part.matrix->view().blocks * kBlock);
    }
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
  const Checkpoint& checkpoint_;
  ThreadPool& pool_;
  const Kernels& kernels_;
  Activations activations_;
  const LoadProgress& progress_;
  std::map<std::string, const LatentAttentionOp*> expansions_;  // by weight
  std::size_t at_ = 0;
};

}  // namespace

std::vector<BufferId> touched(const Step& step) {
  if (const auto* const s = std::get_if<EmbeddingStep>(&step)) return {s->out};
  if (const auto* const s = std::get_if<NormStep>(&step)) return {s->in, s->out};
  if (const auto* const s = std::get_if<AttentionStep>(&step)) return {s->op.q, s->op.k, s->op.v, s->op.out};
  if (const auto* const s = std::get_if<LatentAttentionStep>(&step)) return {s->op.q, s->op.latent, s->op.out};
  if (const auto* const s = std::get_if<MoeStep>(&step)) return {s->op.in, s->op.logits, s->op.out};
  if (const auto* const s = std::get_if<RopeStep>(&step)) return {s->x};
  if (const auto* const s = std::get_if<SwigluStep>(&step)) return {s->gate, s->up, s->out};
  if (const auto* const s = std::get_if<AddStep>(&step)) return {s->x, s->y};
  if (const auto* const s = std::get_if<HadamardStep>(&step)) return {s->in, s->out};
  if (const auto* const s = std::get_if<SelectStep>(&step)) return {s->in, s->out};
  if (const auto* const s = std::get_if<InputStep>(&step)) return {s->out};
  if (const auto* const s = std::get_if<ObserveStep>(&step)) return {s->in};
  const auto& linear = std::get<LinearStep>(step);
  std::vector<BufferId> out{linear.in};
  for (const LinearPart& part : linear.parts) out.push_back(part.out);
  return out;
}

Program compile(Plan plan, const Checkpoint& checkpoint, ThreadPool& pool, const Kernels& kernels,
                Activations activations, const LoadProgress& progress) {
  Program program;
  program.plan = std::move(plan);
  Compiler(program, checkpoint, pool, kernels, activations, progress).run();
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
    blocks[i] = {i, -1, -1, (rows * buffer.width + 15) / 16 * 16};
  }
  for (int i = 0; i < static_cast<int>(program.steps.size()); ++i) {
    for (const BufferId id : touched(program.steps[static_cast<std::size_t>(i)])) {
      Block& block = blocks[static_cast<std::size_t>(id)];
      if (block.first < 0) block.first = i;
      block.last = i;
    }
  }
  blocks[static_cast<std::size_t>(program.plan.logits)].last = static_cast<int>(program.steps.size());
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
