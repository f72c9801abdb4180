#include "ops/plan.h"

#include <set>

namespace metal_marlin {
namespace {

template <typename... Fs>
struct Overloaded : Fs... {
  using Fs::operator()...;
};
template <typename... Fs>
Overloaded(Fs...) -> Overloaded<Fs...>;

}  // namespace

std::string describe(const Op& op) {
  return std::visit(
      Overloaded{[](const EmbeddingOp& o) { return "embedding " + o.weight; },
                 [](const RmsNormOp& o) { return "rms_norm " + o.weight; },
                 [](const LinearOp& o) { return "linear " + o.weight; },
                 [](const RopeOp&) { return std::string("rope"); },
                 [](const AttentionOp& o) { return "attention of layer " + std::to_string(o.layer); },
                 [](const SwigluOp&) { return std::string("swiglu"); }, [](const AddOp&) { return std::string("add"); },
                 [](const SelectOp&) { return std::string("select"); }},
      op);
}

std::vector<PlannedWeight> planned_weights(const Plan& plan) {
  std::vector<PlannedWeight> weights;
  std::set<std::string> seen;
  const auto add = [&](const std::string& name, std::vector<std::int64_t> shape, bool matrix) {
    if (!name.empty() && seen.insert(name).second) weights.push_back({name, std::move(shape), matrix});
  };
  const auto width = [&](BufferId id) { return plan.buffers[static_cast<std::size_t>(id)].width; };
  for (const Op& op : plan.ops) {
    if (const auto* const embedding = std::get_if<EmbeddingOp>(&op)) {
      add(embedding->weight, {plan.vocab, width(embedding->out)}, true);
    } else if (const auto* const norm = std::get_if<RmsNormOp>(&op)) {
      add(norm->weight, {norm->width}, false);
    } else if (const auto* const linear = std::get_if<LinearOp>(&op)) {
      add(linear->weight, {width(linear->out), width(linear->in)}, true);
      add(linear->bias, {width(linear->out)}, false);
    }
  }
  return weights;
}

}  // namespace metal_marlin
