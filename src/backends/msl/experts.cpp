#include "backends/msl/experts.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "backends/msl/epilogue.h"
#include "backends/msl/hadamard.h"
#include "backends/msl/matrix_unit.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

constexpr std::uint32_t kDecodeSimdgroups = 4;
constexpr std::array kPreparedTypes = {DType::kF16, DType::kBf16};

std::string format_key(const Weight& weight) {
  if (!weight.packed()) return std::string(dtype_name(std::get<DenseView>(weight.view).dtype));
  const FormatSpec& spec = std::get<PackedView>(weight.view).spec;
  return fmt::format("{} group {} {} {}", format_info(spec.format).name, group_name(spec.group),
                     scale_type_name(spec.scale_type), zero_kind_name(spec.zero));
}

// Experts by format, in order of the first of each.
std::vector<std::pair<std::string, std::vector<std::int64_t>>> classes_of(const std::vector<Weight>& weights) {
  std::vector<std::pair<std::string, std::vector<std::int64_t>>> classes;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const std::string key = format_key(weights[i]);
    auto found = std::find_if(classes.begin(), classes.end(), [&](const auto& entry) { return entry.first == key; });
    if (found == classes.end()) found = classes.insert(classes.end(), {key, {}});
    found->second.push_back(static_cast<std::int64_t>(i));
  }
  return classes;
}

std::vector<Weight> pick(const std::vector<Weight>& weights, const std::vector<std::int64_t>& members) {
  std::vector<Weight> out;
  for (const std::int64_t i : members) out.push_back(weights[static_cast<std::size_t>(i)]);
  return out;
}

std::unique_ptr<Buffer> slots_of(Device& device, std::int64_t experts, const std::vector<std::int64_t>& members) {
  std::vector<std::int32_t> slots(static_cast<std::size_t>(experts), -1);
  for (std::size_t i = 0; i < members.size(); ++i)
    slots[static_cast<std::size_t>(members[i])] = static_cast<std::int32_t>(i);
  return device.allocate_with(slots);
}

}  // namespace

ExpertsWorkspace::ExpertsWorkspace(Device& device, std::int64_t max_tokens, std::int64_t chosen, std::int64_t experts,
                                   std::int64_t hidden, std::int64_t intermediate)
    : linear_(device, max_tokens * chosen, std::max(hidden, intermediate), 1) {
  const auto assignments = static_cast<std::size_t>(max_tokens * chosen);
  counts_ = device.allocate(static_cast<std::size_t>(experts) * sizeof(std::int32_t));
  offsets_ = device.allocate((static_cast<std::size_t>(experts) + 1) * sizeof(std::int32_t));
  order_ = device.allocate(assignments * sizeof(std::int32_t));
  places_ = device.allocate(assignments * sizeof(std::int32_t));
  gate_ = device.allocate(assignments * static_cast<std::size_t>(intermediate) * sizeof(float));
  up_ = device.allocate(assignments * static_cast<std::size_t>(intermediate) * sizeof(float));
  result_ = device.allocate(assignments * static_cast<std::size_t>(hidden) * sizeof(float));
}

Experts::Experts(Device& device, const std::string& name, std::int64_t experts, std::int64_t hidden,
                 std::int64_t intermediate, const Load& load, ThreadPool& pool, const LoadBias& load_bias)
    : device_(device), experts_(experts), hidden_(hidden), intermediate_(intermediate) {
  std::vector<Weight> gate;
  std::vector<Weight> up;
  std::vector<Weight> down;
  for (std::int64_t i = 0; i < experts; ++i) {
    gate.push_back(load(i, "gate"));
    up.push_back(load(i, "up"));
    down.push_back(load(i, "down"));
    if (format_key(gate.back()) != format_key(up.back())) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}{}: its gate is {}, its up {}; the msl backend wants one format for both", name, i,
                              format_key(gate.back()), format_key(up.back())));
    }
  }
  for (const auto& [key, members] : classes_of(gate)) {
    gate_up_.push_back({MatrixStack(device, name, pick(gate, members), intermediate, hidden, pool),
                        MatrixStack(device, name, pick(up, members), intermediate, hidden, pool),
                        slots_of(device, experts, members)});
  }
  for (const auto& [key, members] : classes_of(down)) {
    down_.push_back({MatrixStack(device, name, pick(down, members), hidden, intermediate, pool),
                     slots_of(device, experts, members)});
  }
  if (!load_bias) return;
  const auto biases = [&](const char* projection) {
    std::vector<float> all;
    for (std::int64_t i = 0; i < experts; ++i) {
      const std::vector<float> one = load_bias(i, projection);
      all.insert(all.end(), one.begin(), one.end());
    }
    return device.allocate_with(all);
  };
  gate_biases_ = biases("gate");
  up_biases_ = biases("up");
  down_biases_ = biases("down");
}

DecodeParams Experts::decode_params(const MatrixStack& stack, const ExpertsCall& call, bool accumulate) const {
  return {static_cast<std::uint32_t>(stack.rows()),
          static_cast<std::uint32_t>(stack.cols()),
          stack.units(),
          stack.item_blocks(),
          static_cast<std::uint32_t>(call.chosen),
          accumulate ? 1U : 0U,
          gate_biases_ ? 1U : 0U,
          call.gate};
}

std::size_t Experts::bytes() const {
  std::size_t total = gate_biases_ ? gate_biases_->size() + up_biases_->size() + down_biases_->size() : 0;
  for (const GateUpClass& c : gate_up_) total += c.gate.bytes() + c.up.bytes();
  for (const DownClass& c : down_) total += c.down.bytes();
  return total;
}

void Experts::encode(Commands& commands, const ExpertsCall& call, const ExpertsWorkspace& workspace) const {
  if (call.tokens == 0) return;
  const auto is_float = [](const MatrixStack& stack) {
    return stack.dense() != nullptr && stack.dense()->dtype == DType::kF32;
  };
  const bool any_float =
      std::any_of(gate_up_.begin(), gate_up_.end(), [&](const auto& c) { return is_float(c.gate); }) ||
      std::any_of(down_.begin(), down_.end(), [&](const auto& c) { return is_float(c.down); });
  if (call.mode == Activations::kF32 || any_float || call.tokens * call.chosen <= kFewAssignments) {
    encode_few(commands, call, workspace);
  } else {
    encode_grouped(commands, call, workspace);
  }
}

void Experts::encode_few(Commands& commands, const ExpertsCall& call, const ExpertsWorkspace& workspace) const {
  const auto tokens = static_cast<std::uint32_t>(call.tokens);
  const auto assignments = static_cast<std::uint32_t>(call.tokens * call.chosen);
  for (const GateUpClass& c : gate_up_) {
    Arguments arguments;
    const DecodeParams p = decode_params(c.gate, call, false);
    Buffer& gate_biases = gate_biases_ ? *gate_biases_ : c.gate.factors();  // which is not read
    Buffer& up_biases = up_biases_ ? *up_biases_ : c.up.factors();
    if (const TiledMatrix* const gate = c.gate.quantized()) {
      const TiledMatrix& up = *c.up.quantized();
      arguments.buffer(0, *gate->codes).buffer(1, *gate->scales).buffer(2, *gate->minima);
      arguments.buffer(3, *up.codes).buffer(4, *up.scales).buffer(5, *up.minima);
      arguments.buffer(6, c.gate.factors()).buffer(7, c.up.factors()).buffer(8, *call.x).buffer(9, *call.ids);
      arguments.buffer(10, *c.slots).buffer(11, workspace.gate()).bytes(12, gate->params).bytes(13, p);
      arguments.buffer(14, gate_biases).buffer(15, up_biases);
    } else {
      arguments.buffer(0, *c.gate.dense()->values).buffer(1, *c.up.dense()->values).buffer(2, c.gate.factors());
      arguments.buffer(3, *call.x).buffer(4, *call.ids).buffer(5, *c.slots).buffer(6, workspace.gate()).bytes(7, p);
      arguments.buffer(8, gate_biases).buffer(9, up_biases);
    }
    commands.dispatch(device_.pipeline("moe_dispatch_optimized", "moe_decode_gate_up_" + c.gate.kind()),
                      {c.gate.item_blocks(), assignments, 1}, {32 * std::min(c.gate.units(), kDecodeSimdgroups), 1, 1},
                      arguments);
  }
  rotate_active(commands, call, workspace);
  bool accumulate = false;
  for (const DownClass& c : down_) {
    Arguments arguments;
    const DecodeParams p = decode_params(c.down, call, accumulate);
    Buffer& biases = down_biases_ ? *down_biases_ : c.down.factors();
    if (const TiledMatrix* const m = c.down.quantized()) {
      arguments.buffer(0, *m->codes).buffer(1, *m->scales).buffer(2, *m->minima).buffer(3, c.down.factors());
      arguments.buffer(4, workspace.gate()).buffer(5, *call.ids).buffer(6, *c.slots).buffer(7, *call.weights);
      arguments.buffer(8, *call.y).bytes(9, m->params).bytes(10, p).buffer(11, biases);
    } else {
      arguments.buffer(0, *c.down.dense()->values).buffer(1, c.down.factors()).buffer(2, workspace.gate());
      arguments.buffer(3, *call.ids)
          .buffer(4, *c.slots)
          .buffer(5, *call.weights)
          .buffer(6, *call.y)
          .bytes(7, p)
          .buffer(8, biases);
    }
    commands.dispatch(device_.pipeline("moe_dispatch_optimized", "moe_decode_down_" + c.down.kind()),
                      {c.down.item_blocks(), tokens, 1}, {32 * std::min(c.down.units(), kDecodeSimdgroups), 1, 1},
                      arguments);
    accumulate = true;
  }
}

void Experts::rotate_active(Commands& commands, const ExpertsCall& call, const ExpertsWorkspace& workspace) const {
  if (call.down_rotation == 0) return;
  encode_hadamard(device_, commands, DType::kF32, call.tokens * call.chosen, intermediate_, call.down_rotation,
                  HadamardDirection::kForward, workspace.gate(), workspace.gate());
}

// One projection of the experts of one format, their activations prepared in the workspace.
void Experts::multiply(Commands& commands, const MatrixStack& stack, Buffer& slots, const ExpertsCall& call,
                       bool by_token, Buffer& y, const ExpertsWorkspace& workspace) const {
  const std::int64_t assignments = call.tokens * call.chosen;
  const LinearWorkspace& linear = workspace.linear();
  const ExpertParams e{static_cast<std::uint32_t>(stack.rows()), static_cast<std::uint32_t>(call.chosen),
                       by_token ? 1U : 0U, stack.item_blocks()};
  const LinearParams p =
      linear_params(stack.prepared_type(Activations::kInt8), DType::kF32, assignments, stack.cols(), stack.rows());
  // For as many tokens as an expert has when all are chosen alike.
  const std::int64_t columns = assignments <= 8 * experts_ ? 1 : 4;
  const MoeGroups groups = workspace.groups();
  Arguments arguments;
  std::string kernel;
  if (const TiledMatrix* const m = stack.quantized()) {
    kernel = fmt::format("moe_expert_gemm_{}_{}", stack.kind_with_scales(true), columns);
    arguments.buffer(0, *m->codes).buffer(1, *m->scales).buffer(2, *m->minima).buffer(3, linear.activations());
    arguments.buffer(4, y).buffer(5, linear.factors()).buffer(6, slots).buffer(7, stack.factors());
    arguments.buffer(8, *groups.offsets).buffer(9, *groups.order).bytes(10, m->params).bytes(11, p).bytes(12, e);
  } else {
    kernel = fmt::format("moe_expert_{}_{}", stack.kind(), columns);
    arguments.buffer(0, *stack.dense()->values).buffer(1, linear.activations()).buffer(2, y);
    arguments.buffer(3, linear.factors()).buffer(4, slots).buffer(5, *groups.offsets).buffer(6, *groups.order);
    arguments.bytes(7, stack.units()).bytes(8, p).bytes(9, e);
  }
  arguments.threadgroup(0, tile_bytes(device_, 4));
  arguments.operations(product_operations(assignments, stack.rows(), stack.cols()));
  // Twice the mean side by side; who has more takes them in turn.
  const std::int64_t tiles = 2 * assignments / experts_ / (8 * columns) + 1;
  commands.dispatch(
      device_.pipeline("moe_expert_gemm", kernel, tile_constants(device_)),
      {(stack.item_blocks() + 3) / 4, static_cast<std::uint32_t>(tiles), static_cast<std::uint32_t>(experts_)},
      {kGemmThreads, 1, 1}, arguments);
}

void Experts::encode_grouped(Commands& commands, const ExpertsCall& call, const ExpertsWorkspace& workspace) const {
  const std::int64_t assignments = call.tokens * call.chosen;
  const MoeGroups groups = workspace.groups();
  encode_moe_groups(device_, commands, experts_, call.tokens, call.chosen, *call.ids, groups);
  for (const DType type : kPreparedTypes) {
    const auto wants = [type](const MatrixStack& stack) { return stack.prepared_type(Activations::kInt8) == type; };
    if (std::none_of(gate_up_.begin(), gate_up_.end(), [&](const auto& c) { return wants(c.gate); })) continue;
    encode_prepare(device_, commands, type, call.tokens, hidden_, hidden_, *call.x, workspace.linear());
    for (const GateUpClass& c : gate_up_) {
      if (!wants(c.gate)) continue;
      multiply(commands, c.gate, *c.slots, call, true, workspace.gate(), workspace);
      multiply(commands, c.up, *c.slots, call, true, workspace.up(), workspace);
    }
  }
  if (gate_biases_) {
    encode_moe_gated(device_, commands, experts_, assignments, intermediate_, call.gate, *call.ids, groups,
                     workspace.gate(), workspace.up(), *gate_biases_, *up_biases_);
  } else {
    encode_gated(device_, commands, DType::kF32, assignments * intermediate_, call.gate, workspace.gate(),
                 workspace.up(), workspace.gate());
  }
  rotate_active(commands, call, workspace);
  for (const DType type : kPreparedTypes) {
    const auto wants = [type](const MatrixStack& stack) { return stack.prepared_type(Activations::kInt8) == type; };
    if (std::none_of(down_.begin(), down_.end(), [&](const auto& c) { return wants(c.down); })) continue;
    encode_prepare(device_, commands, type, assignments, intermediate_, intermediate_, workspace.gate(),
                   workspace.linear());
    for (const DownClass& c : down_) {
      if (wants(c.down)) multiply(commands, c.down, *c.slots, call, false, workspace.result(), workspace);
    }
  }
  encode_moe_combine(device_, commands, DType::kF32, call.tokens, call.chosen, hidden_, workspace.result(), groups,
                     *call.weights, false, *call.y, {down_biases_.get(), call.ids});
}

}  // namespace metal_marlin::msl
