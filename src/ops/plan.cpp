#include "ops/plan.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "metal_marlin/error.h"
#include "ops/op_traits.h"

namespace metal_marlin {
std::string describe(const Op& op) {
  return with_traits(op, [&](auto traits, const auto& body) {
    const std::string name(traits.kName);
    const std::string subject = traits.subject(body);
    if (!subject.empty()) return name + " " + subject;
    return op.layer < 0 ? name : name + " of layer " + std::to_string(op.layer);
  });
}

std::vector<BufferId> read_buffers(const Op& op) {
  return with_traits(op, [](auto traits, const auto& body) { return traits.reads(body); });
}

std::vector<BufferId> written_buffers(const Op& op) {
  return with_traits(op, [](auto traits, const auto& body) { return traits.writes(body); });
}

std::string expert_weight(const MoeOp& op, std::int64_t expert, const char* projection) {
  return op.prefix + std::to_string(expert) + "." + projection + "_proj.weight";
}

std::string expert_bias(const MoeOp& op, std::int64_t expert, const char* projection) {
  return op.biases ? op.prefix + std::to_string(expert) + "." + projection + "_proj.bias" : "";
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
      layer_ = op.layer;
      if (auto* const linear = copy.as<LinearOp>()) {
        linear->in = rotated(linear->in, rotation_of(linear->weight), linear->weight);
      } else if (auto* const moe = copy.as<MoeOp>()) {
        const std::string gate = expert_weight(*moe, 0, "gate");
        moe->down_rotation = check(of_experts(*moe, {"down"}), moe->intermediate, expert_weight(*moe, 0, "down"));
        moe->in = rotated(moe->in, of_experts(*moe, {"gate", "up"}), gate);
      } else if (const auto* const latent = copy.as<LatentAttentionOp>()) {
        refuse_any(latent->expand);
      } else if (const auto* const embedding = copy.as<EmbeddingOp>()) {
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
      plan_.ops.emplace_back(HadamardOp{in, place->second, block}, layer_);
    }
    return place->second;
  }

  Plan plan_;
  int layer_ = -1;  // of the op that reads
  const std::function<int(const std::string&)>& rotation_of_;
  std::map<std::pair<BufferId, int>, BufferId> copies_;  // that hold what their source holds
};

}  // namespace

Plan with_rotations(const Plan& plan, const std::function<int(const std::string& weight)>& rotation_of) {
  return Rotator(plan, rotation_of).take();
}

std::int64_t widest_bare_norm(const Plan& plan) {
  std::int64_t widest = 0;
  for (const Op& op : plan.ops) {
    const auto* const norm = op.as<NormOp>();
    if (norm != nullptr && norm->weight.empty()) widest = std::max(widest, norm->width);
  }
  return widest;
}

Plan hidden_plan(const Plan& plan) {
  Plan out = plan;
  const auto writes = [&](const Op& op) {
    const std::vector<BufferId> written = written_buffers(op);
    return std::find(written.begin(), written.end(), plan.hidden) != written.end();
  };
  const auto last = std::find_if(out.ops.rbegin(), out.ops.rend(), writes);
  if (last == out.ops.rend()) throw Error(ErrorCode::kInternal, "the plan has no hidden states");
  out.ops.erase(last.base(), out.ops.end());
  out.outputs = {{kHiddenOutput, plan.hidden}};
  return out;
}

std::vector<PlannedWeight> planned_weights(const Plan& plan) {
  std::vector<PlannedWeight> weights;
  std::set<std::string> seen;
  for (const Op& op : plan.ops) {
    for (PlannedWeight& weight :
         with_traits(op, [&](auto traits, const auto&body) { return traits.weights(body, plan); })) {
      if (!seen.insert(weight.name).second) continue;
      weight.layer = op.layer;
      weight.prediction = plan.prediction && !weight.embedding_or_head();
      weights.push_back(std::move(weight));
    }
  }
  return weights;
}

}  // namespace metal_marlin
