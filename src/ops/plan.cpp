#include "ops/plan.h"

#include <map>
#include <set>
#include <utility>

#include "base/overloaded.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
std::string describe(const Op& op) {
  return std::visit(
      Overloaded{
          [](const EmbeddingOp& o) { return "embedding " + o.weight; },
          [](const RmsNormOp& o) { return "rms_norm " + o.weight; },
          [](const LinearOp& o) { return "linear " + o.weight; }, [](const RopeOp&) { return std::string("rope"); },
          [](const AttentionOp& o) { return "attention of layer " + std::to_string(o.layer); },
          [](const LatentAttentionOp& o) { return "latent attention of layer " + std::to_string(o.layer); },
          [](const MoeOp& o) { return "mixture of experts " + o.prefix; },
          [](const SwigluOp&) { return std::string("swiglu"); }, [](const AddOp&) { return std::string("add"); },
          [](const HadamardOp&) { return std::string("hadamard"); },
          [](const SelectOp&) { return std::string("select"); }, [](const InputOp&) { return std::string("input"); },
          [](const ObserveOp& o) { return "observe " + o.name; }},
      op);
}

std::vector<BufferId> read_buffers(const Op& op) {
  using Ids = std::vector<BufferId>;
  return std::visit(
      Overloaded{[](const EmbeddingOp&) { return Ids{}; }, [](const RmsNormOp& o) { return Ids{o.in}; },
                 [](const LinearOp& o) { return Ids{o.in}; }, [](const RopeOp& o) { return Ids{o.x}; },
                 [](const AttentionOp& o) {
                   return Ids{o.q, o.k, o.v};
                 },
                 [](const LatentAttentionOp& o) {
                   return Ids{o.q, o.latent};
                 },
                 [](const MoeOp& o) {
                   return Ids{o.in, o.logits};
                 },
                 [](const SwigluOp& o) {
                   return Ids{o.gate, o.up};
                 },
                 [](const AddOp& o) {
                   return Ids{o.x, o.y};
                 },
                 [](const HadamardOp& o) { return Ids{o.in}; }, [](const SelectOp& o) { return Ids{o.in}; },
                 [](const InputOp&) { return Ids{}; }, [](const ObserveOp& o) { return Ids{o.in}; }},
      op);
}

std::vector<BufferId> written_buffers(const Op& op) {
  using Ids = std::vector<BufferId>;
  return std::visit(Overloaded{[](const RopeOp& o) { return Ids{o.x}; }, [](const AddOp& o) { return Ids{o.x}; },
                               [](const LatentAttentionOp& o) {
                                 return Ids{o.q, o.latent, o.out};
                               },
                               [](const ObserveOp&) { return Ids{}; }, [](const auto& o) { return Ids{o.out}; }},
                    op);
}

std::string expert_weight(const MoeOp& op, std::int64_t expert, const char* projection) {
  return op.prefix + std::to_string(expert) + "." + projection + "_proj.weight";
}

namespace {

// Puts a rotation before each op that reads rotated weights, one for those that read the same.
class Rotator {
 public:
  Rotator(const Plan& plan, const std::function<int(const std::string&)>& rotation_of)
      : plan_(plan), rotation_of_(rotation_of) {
    plan_.ops.clear();
    for (const Op& op : plan.ops) {
      Op copy = op;
      if (auto* const linear = std::get_if<LinearOp>(&copy)) {
        linear->in = rotated(linear->in, rotation_of(linear->weight), linear->weight);
      } else if (auto* const moe = std::get_if<MoeOp>(&copy)) {
        const std::string gate = expert_weight(*moe, 0, "gate");
        moe->down_rotation = check(of_experts(*moe, {"down"}), moe->intermediate, expert_weight(*moe, 0, "down"));
        moe->in = rotated(moe->in, of_experts(*moe, {"gate", "up"}), gate);
      } else if (const auto* const latent = std::get_if<LatentAttentionOp>(&copy)) {
        refuse_any(latent->expand);
      } else if (const auto* const embedding = std::get_if<EmbeddingOp>(&copy)) {
        refuse_any(embedding->weight);
      }
      for (const BufferId id : written_buffers(op))
        std::erase_if(copies_, [id](const auto& entry) { return entry.first.first == id; });
      plan_.ops.push_back(std::move(copy));
    }
  }
  Plan take() { return std::move(plan_); }

 private:
  [[noreturn]] static void refuse(const std::string& weight, const std::string& why) {
    throw Error(ErrorCode::kUnsupported, "tensor " + weight + " is stored rotated: " + why);
  }
  void refuse_any(const std::string& weight) const {
    if (rotation_of_(weight) != 0) refuse(weight, "only linear layers and experts can be");
  }
  static int check(int block, std::int64_t width, const std::string& weight) {
    if (block != 0 && width % block != 0)
      refuse(weight, "blocks of " + std::to_string(block) + " do not divide its width, " + std::to_string(width));
    return block;
  }
  [[nodiscard]] int of_experts(const MoeOp& moe, const std::vector<const char*>& projections) const {
    const int block = rotation_of_(expert_weight(moe, 0, projections.front()));
    for (std::int64_t expert = 0; expert < moe.experts; ++expert) {
      for (const char* const projection : projections) {
        const std::string name = expert_weight(moe, expert, projection);
        if (rotation_of_(name) != block) refuse(name, "the experts of a layer must be rotated alike");
      }
    }
    return block;
  }
  BufferId rotated(BufferId in, int block, const std::string& weight) {
    if (block == 0) return in;
    const Buffer buffer = plan_.buffers[static_cast<std::size_t>(in)];
    check(block, buffer.width, weight);
    const auto [place, added] = copies_.try_emplace({in, block}, -1);
    if (added) {
      place->second = plan_.add_buffer(buffer.name + "_rotated", buffer.width, buffer.selected);
      plan_.ops.emplace_back(HadamardOp{in, place->second, block});
    }
    return place->second;
  }

  Plan plan_;
  const std::function<int(const std::string&)>& rotation_of_;
  std::map<std::pair<BufferId, int>, BufferId> copies_;  // that hold what their source holds
};

}  // namespace

Plan with_rotations(const Plan& plan, const std::function<int(const std::string& weight)>& rotation_of) {
  return Rotator(plan, rotation_of).take();
}

std::vector<PlannedWeight> planned_weights(const Plan& plan) {
  std::vector<PlannedWeight> weights;
  std::set<std::string> seen;
  const auto vector = [&](const std::string& name, std::int64_t size) {
    if (!name.empty() && seen.insert(name).second) weights.push_back({name, {size}, false, false});
  };
  const auto matrix = [&](const std::string& name, std::int64_t rows, std::int64_t cols, bool quantizable = true) {
    if (seen.insert(name).second) weights.push_back({name, {rows, cols}, true, quantizable});
  };
  const auto width = [&](BufferId id) { return plan.buffers[static_cast<std::size_t>(id)].width; };
  for (const Op& op : plan.ops) {
    if (const auto* const embedding = std::get_if<EmbeddingOp>(&op)) {
      matrix(embedding->weight, plan.vocab, width(embedding->out));
    } else if (const auto* const norm = std::get_if<RmsNormOp>(&op)) {
      vector(norm->weight, norm->width);
    } else if (const auto* const linear = std::get_if<LinearOp>(&op)) {
      matrix(linear->weight, width(linear->out), width(linear->in), !linear->exact);
      vector(linear->bias, width(linear->out));
    } else if (const auto* const latent = std::get_if<LatentAttentionOp>(&op)) {
      vector(latent->norm, latent->rank);
      matrix(latent->expand, latent->heads * (latent->nope_dim + latent->value_dim), latent->rank);
    } else if (const auto* const moe = std::get_if<MoeOp>(&op)) {
      vector(moe->correction, moe->experts);
      for (std::int64_t expert = 0; expert < moe->experts; ++expert) {
        matrix(expert_weight(*moe, expert, "gate"), moe->intermediate, width(moe->in));
        matrix(expert_weight(*moe, expert, "up"), moe->intermediate, width(moe->in));
        matrix(expert_weight(*moe, expert, "down"), width(moe->out), moe->intermediate);
      }
    }
  }
  return weights;
}

}  // namespace metal_marlin
