// What each kind of op reads, writes and weighs, and its name: all that compilers, loaders and messages
// know of it. A buffer that is changed in place is both read and written.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "ops/plan.h"

namespace metal_marlin {

using BufferIds = std::vector<BufferId>;
using PlannedWeights = std::vector<PlannedWeight>;

inline PlannedWeight planned_vector(const std::string& name, std::int64_t size) {
  return {name, {size}, false, false};
}
inline PlannedWeight planned_matrix(const std::string& name, std::int64_t rows, std::int64_t cols, Role role) {
  return {name, {rows, cols}, true, true, role};
}

// What most kinds have; specialisations hide what they have otherwise.
struct OpDefaults {
  template <typename T>
  static std::string subject(const T&) {
    return "";
  }
  template <typename T>
  static PlannedWeights weights(const T&, const Plan&) {
    return {};
  }
};

template <typename T>
struct OpTraits;

template <>
struct OpTraits<EmbeddingOp> : OpDefaults {
  static constexpr std::string_view kName = "embedding";
  static std::string subject(const EmbeddingOp& op) { return op.weight; }
  static BufferIds reads(const EmbeddingOp&) { return {}; }
  static BufferIds writes(const EmbeddingOp& op) { return {op.out}; }
  static PlannedWeights weights(const EmbeddingOp& op, const Plan& plan) {
    return {planned_matrix(op.weight, op.vocab, plan.width(op.out), {ModelPart::kEmbedding})};
  }
};

template <>
struct OpTraits<NormOp> : OpDefaults {
  static constexpr std::string_view kName = "norm";
  static std::string subject(const NormOp& op) { return op.weight; }
  static BufferIds reads(const NormOp& op) { return {op.in}; }
  static BufferIds writes(const NormOp& op) { return {op.out}; }
  static PlannedWeights weights(const NormOp& op, const Plan&) {
    if (op.weight.empty()) return {};
    PlannedWeight weight = planned_vector(op.weight, op.width);
    weight.added = op.one_more ? 1 : 0;
    return {weight};
  }
};

template <>
struct OpTraits<LinearOp> : OpDefaults {
  static constexpr std::string_view kName = "linear";
  static std::string subject(const LinearOp& op) { return op.weight; }
  static BufferIds reads(const LinearOp& op) { return {op.in}; }
  static BufferIds writes(const LinearOp& op) { return {op.out}; }
  static PlannedWeights weights(const LinearOp& op, const Plan& plan) {
    PlannedWeights out{planned_matrix(op.weight, plan.width(op.out), plan.width(op.in), op.role)};
    out.front().quantizable = !op.exact;
    if (!op.bias.empty()) out.push_back(planned_vector(op.bias, plan.width(op.out)));
    return out;
  }
};

template <>
struct OpTraits<RopeOp> : OpDefaults {
  static constexpr std::string_view kName = "rope";
  static BufferIds reads(const RopeOp& op) { return {op.x}; }
  static BufferIds writes(const RopeOp& op) { return {op.x}; }
};

template <>
struct OpTraits<PositionScaleOp> : OpDefaults {
  static constexpr std::string_view kName = "scale by position";
  static BufferIds reads(const PositionScaleOp& op) { return {op.x}; }
  static BufferIds writes(const PositionScaleOp& op) { return {op.x}; }
};

template <>
struct OpTraits<AttentionOp> : OpDefaults {
  static constexpr std::string_view kName = "attention";
  static BufferIds reads(const AttentionOp& op) { return {op.q, op.k, op.v}; }
  static BufferIds writes(const AttentionOp& op) { return {op.out}; }
  static PlannedWeights weights(const AttentionOp& op, const Plan&) {
    if (op.sinks.empty()) return {};
    return {planned_vector(op.sinks, op.heads)};
  }
};

template <>
struct OpTraits<LatentAttentionOp> : OpDefaults {
  static constexpr std::string_view kName = "latent attention";
  static std::string subject(const LatentAttentionOp& op) { return op.expand; }
  static BufferIds reads(const LatentAttentionOp& op) { return {op.q, op.latent}; }
  static BufferIds writes(const LatentAttentionOp& op) { return {op.q, op.latent, op.out}; }
  static PlannedWeights weights(const LatentAttentionOp& op, const Plan&) {
    return {planned_vector(op.norm, op.rank), planned_matrix(op.expand, op.heads * (op.nope_dim + op.value_dim),
                                                             op.rank, {ModelPart::kAttention, Projection::kLatentUp})};
  }
};

template <>
struct OpTraits<MoeOp> : OpDefaults {
  static constexpr std::string_view kName = "mixture of experts";
  static std::string subject(const MoeOp& op) { return op.prefix; }
  static BufferIds reads(const MoeOp& op) { return {op.in, op.logits}; }
  static BufferIds writes(const MoeOp& op) { return {op.out}; }
  static PlannedWeights weights(const MoeOp& op, const Plan& plan) {
    PlannedWeights out;
    if (!op.router_bias.empty()) out.push_back(planned_vector(op.router_bias, op.experts));
    if (!op.expert_scales.empty()) out.push_back(planned_vector(op.expert_scales, op.experts));
    const auto add = [&](std::int64_t expert, const char* name, std::int64_t rows, std::int64_t cols,
                         Projection projection) {
      if (op.biases) {
        out.push_back(planned_vector(expert_bias(op, expert, name), rows));
        out.back().expert = expert;
      }
      out.push_back(planned_matrix(expert_weight(op, expert, name), rows, cols, {ModelPart::kExpert, projection}));
      out.back().expert = expert;
    };
    for (std::int64_t expert = 0; expert < op.experts; ++expert) {
      add(expert, "gate", op.intermediate, plan.width(op.in), Projection::kGate);
      add(expert, "up", op.intermediate, plan.width(op.in), Projection::kUp);
      add(expert, "down", plan.width(op.out), op.intermediate, Projection::kDown);
    }
    return out;
  }
};

template <>
struct OpTraits<GatedOp> : OpDefaults {
  static constexpr std::string_view kName = "gated product";
  static BufferIds reads(const GatedOp& op) { return {op.gate, op.up}; }
  static BufferIds writes(const GatedOp& op) { return {op.out}; }
};

template <>
struct OpTraits<AddOp> : OpDefaults {
  static constexpr std::string_view kName = "add";
  static BufferIds reads(const AddOp& op) {
    return op.gate < 0 ? BufferIds{op.x, op.y} : BufferIds{op.x, op.y, op.gate};
  }
  static BufferIds writes(const AddOp& op) { return {op.x}; }
};

template <>
struct OpTraits<ScaleOp> : OpDefaults {
  static constexpr std::string_view kName = "scale";
  static std::string subject(const ScaleOp& op) { return op.weight; }
  static BufferIds reads(const ScaleOp& op) { return {op.x}; }
  static BufferIds writes(const ScaleOp& op) { return {op.x}; }
  static PlannedWeights weights(const ScaleOp& op, const Plan&) {
    if (op.weight.empty()) return {};
    return {planned_vector(op.weight, 1)};
  }
};

template <>
struct OpTraits<HadamardOp> : OpDefaults {
  static constexpr std::string_view kName = "hadamard";
  static BufferIds reads(const HadamardOp& op) { return {op.in}; }
  static BufferIds writes(const HadamardOp& op) { return {op.out}; }
};

template <>
struct OpTraits<SelectOp> : OpDefaults {
  static constexpr std::string_view kName = "select";
  static BufferIds reads(const SelectOp& op) { return {op.in}; }
  static BufferIds writes(const SelectOp& op) { return {op.out}; }
};

template <>
struct OpTraits<InputOp> : OpDefaults {
  static constexpr std::string_view kName = "input";
  static BufferIds reads(const InputOp&) { return {}; }
  static BufferIds writes(const InputOp& op) { return {op.out}; }
};

template <>
struct OpTraits<JoinOp> : OpDefaults {
  static constexpr std::string_view kName = "join";
  static BufferIds reads(const JoinOp& op) { return {op.first, op.second}; }
  static BufferIds writes(const JoinOp& op) { return {op.out}; }
};

template <>
struct OpTraits<SliceOp> : OpDefaults {
  static constexpr std::string_view kName = "slice";
  static BufferIds reads(const SliceOp& op) { return {op.in}; }
  static BufferIds writes(const SliceOp& op) { return {op.out}; }
};

template <>
struct OpTraits<ObserveOp> : OpDefaults {
  static constexpr std::string_view kName = "observe";
  static std::string subject(const ObserveOp& op) { return op.name; }
  static BufferIds reads(const ObserveOp& op) { return {op.in}; }
  static BufferIds writes(const ObserveOp&) { return {}; }
};

// Calls f with the traits of an op's kind and the op itself.
template <typename F>
auto with_traits(const Op& op, const F& f) {
  return std::visit([&]<typename T>(const T& body) { return f(OpTraits<T>{}, body); }, op.body);
}

}  // namespace metal_marlin
