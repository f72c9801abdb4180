#include "backends/msl/fuse.h"

#include <algorithm>
#include <optional>
#include <span>

namespace metal_marlin::msl {
namespace {

// The ops from one on.
using Ops = std::span<const Op>;

template <typename T>
const T* op_at(Ops ops, std::size_t at) {
  return at < ops.size() ? std::get_if<T>(&ops[at]) : nullptr;
}

std::optional<RopesStep> ropes(Ops ops) {
  const auto* const q = op_at<RopeOp>(ops, 0);
  const auto* const k = op_at<RopeOp>(ops, 1);
  if (q == nullptr || k == nullptr || q->head_dim != k->head_dim) return std::nullopt;
  return RopesStep{q, k};
}

std::optional<RopesStep> normed_ropes(Ops ops) {
  const auto* const q_norm = op_at<RmsNormOp>(ops, 0);
  const auto* const k_norm = op_at<RmsNormOp>(ops, 1);
  if (q_norm == nullptr || k_norm == nullptr || q_norm->eps != k_norm->eps) return std::nullopt;
  const std::optional<RopesStep> rotated = ropes(ops.subspan(2));
  const auto belong = [](const RmsNormOp& norm, const RopeOp& rope) {
    return norm.in == rope.x && norm.out == rope.x && norm.width == rope.head_dim;
  };
  if (!rotated || !belong(*q_norm, *rotated->q) || !belong(*k_norm, *rotated->k)) return std::nullopt;
  return RopesStep{rotated->q, rotated->k, q_norm, k_norm};
}

std::optional<GateUpStep> gate_up(Ops ops, const FuseOptions& options) {
  const auto* const gate = op_at<LinearOp>(ops, 0);
  const auto* const up = op_at<LinearOp>(ops, 1);
  const auto* const product = op_at<SwigluOp>(ops, 2);
  if (gate == nullptr || up == nullptr || product == nullptr || gate->in != up->in || product->gate != gate->out ||
      product->up != up->out || !gate->bias.empty() || !up->bias.empty() || !options.fuses(*gate, *up)) {
    return std::nullopt;
  }
  return GateUpStep{gate, up, product};
}

// Whether some op reads the buffer before one writes it anew.
bool is_read(Ops ops, BufferId id) {
  const auto holds = [&](const std::vector<BufferId>& ids) {
    return std::find(ids.begin(), ids.end(), id) != ids.end();
  };
  for (const Op& op : ops) {
    if (holds(read_buffers(op))) return true;
    if (holds(written_buffers(op))) return false;
  }
  return false;
}

std::optional<AddedLinearStep> added(Ops ops) {
  const auto* const linear = op_at<LinearOp>(ops, 0);
  const auto* const add = op_at<AddOp>(ops, 1);
  if (linear == nullptr || add == nullptr || add->y != linear->out || add->x == linear->in ||
      is_read(ops.subspan(2), linear->out)) {
    return std::nullopt;
  }
  return AddedLinearStep{linear, add->x};
}

std::optional<PreparedStep> prepared(Ops ops, const Plan& plan, const FuseOptions& options) {
  const auto* const linear = op_at<LinearOp>(ops, 1);
  if (linear == nullptr || !options.prepares(*linear)) return std::nullopt;
  if (const auto* const norm = op_at<RmsNormOp>(ops, 0)) {
    const bool whole = norm->width == plan.buffers[static_cast<std::size_t>(norm->in)].width;
    if (whole && norm->out == linear->in) return PreparedStep{norm, linear};
  }
  if (const auto* const product = op_at<SwigluOp>(ops, 0)) {
    if (product->out == linear->in) return PreparedStep{product, linear};
  }
  return std::nullopt;
}

}  // namespace

std::vector<Step> fuse(const Plan& plan, const FuseOptions& options) {
  std::vector<Step> steps;
  for (Ops rest = plan.ops; !rest.empty();) {
    std::size_t taken = 1;
    if (const auto normed = normed_ropes(rest)) {
      steps.emplace_back(*normed);
      taken = 4;
    } else if (const auto gated = gate_up(rest, options)) {
      steps.emplace_back(*gated);
      taken = 3;
    } else if (const auto sum = added(rest)) {
      steps.emplace_back(*sum);
      taken = 2;
    } else if (const auto rotated = ropes(rest)) {
      steps.emplace_back(*rotated);
      taken = 2;
    } else if (const auto ready = prepared(rest, plan, options)) {
      steps.emplace_back(*ready);
    } else {
      steps.emplace_back(&rest.front());
    }
    rest = rest.subspan(taken);
  }
  return steps;
}

}  // namespace metal_marlin::msl
