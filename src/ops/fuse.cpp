#include "ops/fuse.h"

#include <algorithm>
#include <optional>

namespace metal_marlin {
namespace {

bool holds(const std::vector<BufferId>& ids, BufferId id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// Who reads a buffer's present value.
class Liveness {
 public:
  explicit Liveness(const Plan& plan) {
    for (const Op& op : plan.ops) uses_.push_back({read_buffers(op), written_buffers(op)});
    for (const PlanOutput& output : plan.outputs) outputs_.push_back(output.buffer);
  }
  // Whether an op from `from` on, or who takes the plan's outputs, reads the buffer before it is written anew.
  [[nodiscard]] bool is_read(BufferId id, std::size_t from) const {
    for (std::size_t i = from; i < uses_.size(); ++i) {
      if (holds(uses_[i].reads, id)) return true;
      if (holds(uses_[i].writes, id)) return false;
    }
    return holds(outputs_, id);
  }

 private:
  struct Uses {
    std::vector<BufferId> reads;
    std::vector<BufferId> writes;
  };
  std::vector<Uses> uses_;
  std::vector<BufferId> outputs_;
};

class Fuser {
 public:
  Fuser(const Plan& plan, const FuseCapabilities& capabilities)
      : plan_(plan), capabilities_(capabilities), liveness_(plan) {}

  std::vector<FusedStep> run() {
    std::vector<FusedStep> steps;
    while (at_ < plan_.ops.size()) {
      std::optional<FusedStep> step = heads();
      if (!step) step = linears();
      if (!step) step = single();
      at_ += step->ops.size();
      steps.push_back(std::move(*step));
    }
    return steps;
  }

 private:
  // The op so many after the first of this step; null: of another kind, or there is none.
  template <typename T>
  [[nodiscard]] const T* peek(std::size_t ahead) const {
    return at_ + ahead < plan_.ops.size() ? plan_.ops[at_ + ahead].as<T>() : nullptr;
  }
  [[nodiscard]] std::span<const Op> ops(std::size_t count) const { return std::span(plan_.ops).subspan(at_, count); }
  // Whether nobody after the step's first `count` ops reads the buffer.
  [[nodiscard]] bool ends_in(std::size_t count, BufferId id) const { return !liveness_.is_read(id, at_ + count); }
  // A norm of whole rows, not of heads.
  [[nodiscard]] bool of_rows(const NormOp& norm) const { return norm.width == plan_.width(norm.in); }

  [[nodiscard]] std::optional<FusedStep> heads() const {
    FusedHeads heads;
    std::size_t length = 0;
    while (peek<NormOp>(length) != nullptr || peek<RopeOp>(length) != nullptr) ++length;
    const auto* const attention = peek<AttentionOp>(length);
    if (capabilities_.attention && attention != nullptr) {
      if (!collect(heads, length, attention->q, attention->k) || !of_dim(heads, attention->head_dim))
        return std::nullopt;
      heads.attention = attention;
      return FusedStep{ops(length + 1), {}, heads};
    }
    if (!capabilities_.rotations) return std::nullopt;
    const std::size_t norms = peek<NormOp>(0) != nullptr ? 2 : 0;
    const auto* const q = peek<RopeOp>(norms);
    const auto* const k = peek<RopeOp>(norms + 1);
    if (q == nullptr || k == nullptr || !collect(heads, norms + 2, q->x, k->x) || !of_dim(heads, q->head_dim) ||
        (heads.q_norm == nullptr) != (heads.k_norm == nullptr)) {
      return std::nullopt;
    }
    return FusedStep{ops(norms + 2), {}, heads};
  }

  [[nodiscard]] static bool of_dim(const FusedHeads& heads, std::int64_t dim) {
    const auto norm_fits = [&](const NormOp* norm) { return norm == nullptr || norm->width == dim; };
    const auto rope_fits = [&](const RopeOp* rope) { return rope == nullptr || rope->head_dim == dim; };
    return norm_fits(heads.q_norm) && norm_fits(heads.k_norm) && rope_fits(heads.q_rope) && rope_fits(heads.k_rope);
  }

  // Takes the norms and rotations of the step's first ops; false where a step cannot do them in this order.
  [[nodiscard]] bool collect(FusedHeads& heads, std::size_t count, BufferId q, BufferId k) const {
    if (q == k) return false;
    for (std::size_t i = 0; i < count; ++i) {
      if (const auto* const norm = peek<NormOp>(i)) {
        if (norm->kind != NormKind::kRms || norm->in != norm->out || (norm->in != q && norm->in != k)) return false;
        const NormOp*& place = norm->in == q ? heads.q_norm : heads.k_norm;
        const RopeOp* const rope = norm->in == q ? heads.q_rope : heads.k_rope;
        if (place != nullptr || rope != nullptr) return false;  // the norm is first
        place = norm;
      } else {
        const auto* const rope = peek<RopeOp>(i);
        if (rope->x != q && rope->x != k) return false;
        const RopeOp*& place = rope->x == q ? heads.q_rope : heads.k_rope;
        if (place != nullptr) return false;
        place = rope;
      }
    }
    const bool same_eps = heads.q_norm == nullptr || heads.k_norm == nullptr || heads.q_norm->eps == heads.k_norm->eps;
    const bool same_rotation =
        heads.q_rope == nullptr || heads.k_rope == nullptr ||
        (heads.q_rope->rope == heads.k_rope->rope && heads.q_rope->interleaved == heads.k_rope->interleaved);
    return same_eps && same_rotation;
  }

  // [norm] [hadamard] linear+, then [gated product] of two or [add] of one.
  [[nodiscard]] std::optional<FusedStep> linears() const {
    FusedStep step;
    FusedLinears fused;
    std::size_t length = 0;
    if (capabilities_.linear_inputs) {
      fused.norm = peek<NormOp>(length);
      if (fused.norm != nullptr) ++length;
      fused.rotation = peek<HadamardOp>(length);
      if (fused.rotation != nullptr) ++length;
    }
    const auto* const first = peek<LinearOp>(length);
    if (first == nullptr || (fused.norm != nullptr && !of_rows(*fused.norm))) return std::nullopt;
    for (const LinearOp* op = first; op != nullptr && op->in == first->in; op = peek<LinearOp>(++length))
      fused.linears.push_back(op);
    fused.in = first->in;
    if (fused.rotation != nullptr) {
      if (fused.rotation->out != fused.in || !ends_in(length, fused.in)) return std::nullopt;
      step.inner.push_back(fused.in);
      fused.in = fused.rotation->in;
    }
    if (fused.norm != nullptr) {
      if (fused.norm->out != fused.in || !ends_in(length, fused.in)) return std::nullopt;
      step.inner.push_back(fused.in);
      fused.in = fused.norm->in;
    }
    std::erase(step.inner, fused.in);  // changed in place
    finish_linears(fused, step, length);
    step.ops = ops(length);
    step.form = std::move(fused);
    return step;
  }

  // What the step does with the results; length: of the ops so far.
  void finish_linears(FusedLinears& fused, FusedStep& step, std::size_t& length) const {
    const auto* const product = peek<GatedOp>(length);
    if (product != nullptr && fused.linears.size() == 2) {
      const LinearOp& gate = *fused.linears[0];
      const LinearOp& up = *fused.linears[1];
      const bool theirs = gate.out == product->gate && up.out == product->up;
      const bool apart = product->out != gate.out && product->out != up.out && product->out != fused.in;
      if (theirs && apart && ends_in(length + 1, gate.out) && ends_in(length + 1, up.out) && capabilities_.gate_up &&
          capabilities_.gate_up(gate, up, *product)) {
        fused.product = product;
        step.inner.insert(step.inner.end(), {gate.out, up.out});
        ++length;
        return;
      }
    }
    if (!capabilities_.linear_groups && fused.linears.size() > 1) {
      length -= fused.linears.size() - 1;
      fused.linears.erase(fused.linears.begin() + 1, fused.linears.end());
    }
    const auto* const sum = peek<AddOp>(length);
    const LinearOp& only = *fused.linears.front();
    if (sum != nullptr && sum->gate < 0 && fused.linears.size() == 1 && sum->y == only.out && sum->x != fused.in &&
        ends_in(length + 1, only.out)) {
      fused.sum = sum;
      step.inner.push_back(only.out);
      ++length;
    }
  }

  [[nodiscard]] FusedStep single() const {
    SingleOp form;
    const auto* const reader = peek<LinearOp>(1);
    if (reader != nullptr && capabilities_.prepares && capabilities_.prepares(*reader)) {
      const auto* const norm = peek<NormOp>(0);
      const auto* const product = peek<GatedOp>(0);
      if ((norm != nullptr && of_rows(*norm) && norm->out == reader->in) ||
          (product != nullptr && product->out == reader->in)) {
        form.reader = reader;
      }
    }
    return FusedStep{ops(1), {}, form};
  }

  const Plan& plan_;
  const FuseCapabilities& capabilities_;
  Liveness liveness_;
  std::size_t at_ = 0;
};

}  // namespace

std::vector<BufferId> FusedStep::buffers() const {
  std::vector<BufferId> out;
  for (const Op& op : ops) {
    for (const auto& ids : {read_buffers(op), written_buffers(op)}) {
      for (const BufferId id : ids) {
        if (!holds(inner, id) && !holds(out, id)) out.push_back(id);
      }
    }
  }
  return out;
}

std::vector<FusedStep> fuse(const Plan& plan, const FuseCapabilities& capabilities) {
  return Fuser(plan, capabilities).run();
}

std::vector<Lifetime> lifetimes(const Plan& plan, std::span<const FusedStep> steps) {
  std::vector<Lifetime> out(plan.buffers.size());
  for (std::size_t i = 0; i < steps.size(); ++i) {
    for (const BufferId id : steps[i].buffers()) {
      Lifetime& lifetime = out[static_cast<std::size_t>(id)];
      if (lifetime.first < 0) lifetime.first = static_cast<int>(i);
      lifetime.last = static_cast<int>(i);
    }
  }
  for (const PlanOutput& output : plan.outputs)
    out[static_cast<std::size_t>(output.buffer)].last = static_cast<int>(steps.size());
  return out;
}

}  // namespace metal_marlin
