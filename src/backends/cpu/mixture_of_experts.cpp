#include "backends/cpu/mixture_of_experts.h"

#include <cstring>

#include "backends/router.h"
#include "formats/hadamard.h"

namespace metal_marlin::cpu {

MixtureOfExperts::MixtureOfExperts(const Program& program, const RunnerLimits& limits, WorkspaceMemory& memory) {
  std::int64_t assignments = 0;
  std::int64_t experts = 0;
  std::int64_t scratch = 0;
  std::int64_t in = 0;
  std::int64_t active = 0;
  std::int64_t out = 0;
  const auto width = [&](BufferId id) { return program.plan.width(id); };
  for (const Op& op : program.plan.ops) {
    const auto* const moe = op.as<MoeOp>();
    if (moe == nullptr) continue;
    totals_.resize(static_cast<std::size_t>(program.plan.layers));
    totals_[static_cast<std::size_t>(op.layer)].resize(static_cast<std::size_t>(moe->experts));
    assignments = std::max(assignments, limits.tokens * moe->top_k);
    experts = std::max(experts, moe->experts);
    scratch = std::max(scratch, route_scratch_floats(*moe));
    in = std::max(in, round_up(width(moe->in), kBlock));
    active = std::max(active, round_up(moe->intermediate, kBlock));
    out = std::max(out, width(moe->out));
  }
  const auto count = static_cast<std::size_t>(assignments);
  experts_ = memory.take_vector<std::int32_t>(count);
  weights_ = memory.take_vector<float>(count);
  slots_ = memory.take_vector<std::int32_t>(count);
  tokens_ = memory.take_vector<std::int32_t>(count);
  counts_ = memory.take_vector<std::int64_t>(static_cast<std::size_t>(experts));
  runs_ = memory.take_vector<Run>(static_cast<std::size_t>(experts));
  scores_ = memory.take_vector<float>(static_cast<std::size_t>(limits.tokens * scratch));
  const auto allocate = [&](std::int64_t elements, AlignedBuffer& f32, AlignedBuffer& q8, AlignedBuffer& bf16) {
    const auto total = static_cast<std::size_t>(elements) * count;
    f32 = memory.take(total * sizeof(float));
    q8 = memory.take(total / kBlock * sizeof(Q8Block));
    bf16 = memory.take(total * sizeof(std::uint16_t));
    if (f32.size() > 0) std::memset(f32.data(), 0, f32.size());  // padding that no kernel writes
    return LinearInputs{f32.as<float>(), q8.as<Q8Block>(), bf16.as<std::uint16_t>()};
  };
  in_ = allocate(in, in_f32_, in_q8_, in_bf16_);
  active_ = allocate(active, active_f32_, active_q8_, active_bf16_);
  results_ = memory.take(static_cast<std::size_t>(out) * count * sizeof(float));
}

void MixtureOfExperts::group_by_expert(const MoeStep& step, std::int64_t tokens) {
  const MoeOp& op = step.op;
  assignments_ = tokens * op.top_k;
  std::fill(counts_.begin(), counts_.end(), 0);
  for (std::int64_t i = 0; i < assignments_; ++i)
    ++counts_[static_cast<std::size_t>(experts_[static_cast<std::size_t>(i)])];
  runs_.clear();
  std::int64_t first = 0;
  for (std::int64_t e = 0; e < op.experts; ++e) {
    std::int64_t& count = counts_[static_cast<std::size_t>(e)];
    if (count > 0) runs_.push_back({e, first, count});
    totals_[static_cast<std::size_t>(step.layer)][static_cast<std::size_t>(e)] += count;
    const std::int64_t next = first + count;
    count = first;  // from here on: where the next of its tokens goes
    first = next;
  }
  for (std::int64_t i = 0; i < assignments_; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const std::int64_t slot = counts_[static_cast<std::size_t>(experts_[at])]++;
    slots_[at] = static_cast<std::int32_t>(slot);
    tokens_[static_cast<std::size_t>(slot)] = static_cast<std::int32_t>(i / op.top_k);
  }
}

void MixtureOfExperts::gate_and_up(const MoeStep& step, const StepContext& context, const Run& run, std::int64_t panel,
                                   std::int64_t hidden) {
  const Expert& expert = step.experts[static_cast<std::size_t>(run.expert)];
  const std::int64_t stride = round_up(step.op.intermediate, kBlock);
  LinearTile tile{};
  tile.matrix = &expert.up->view();
  tile.gate = &expert.gate->view();
  tile.bias = expert.up_bias;
  tile.gate_bias = expert.gate_bias;
  tile.form = gate_of(step.op.activation, step.op.clamp);
  tile.panel = panel;
  tile.tokens = run.count;
  tile.out = active_.f32 + run.first * stride;
  tile.out_stride = stride;
  tile.scratch = context.linear_scratch;
  tile.one_order = context.one_order;
  multiply(context.kernels, expert.input, in_, run.first, round_up(hidden, kBlock), tile);
}

void MixtureOfExperts::run(const MoeStep& step, const StepContext& context, const float* in, std::int64_t hidden,
                           const float* logits, float* out, std::int64_t out_width) {
  const MoeOp& op = step.op;
  const std::int64_t tokens = context.tokens();
  context.share(0, tokens, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      std::int32_t* const experts = experts_.data() + t * op.top_k;
      float* const weights = weights_.data() + t * op.top_k;
      route_token(op, logits + t * op.experts, step.router_bias, scores_.data() + t * route_scratch_floats(op), experts,
                  weights);
      for (std::int64_t j = 0; step.expert_scales != nullptr && j < op.top_k; ++j)
        weights[j] *= step.expert_scales[experts[j]];
    }
  });
  context.barrier();
  if (context.thread == 0) group_by_expert(step, tokens);
  context.barrier();
  const std::int64_t in_stride = round_up(hidden, kBlock);
  context.share(1, assignments_, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t slot = begin; slot < end; ++slot) {
      float* const row = in_.f32 + slot * in_stride;
      std::memcpy(row, in + tokens_[static_cast<std::size_t>(slot)] * hidden,
                  static_cast<std::size_t>(hidden) * sizeof(float));
      std::fill(row + hidden, row + in_stride, 0.0F);
      convert_row(context.kernels, in_, slot, hidden, in_stride, step.in_q8, step.in_bf16);
    }
  });
  context.barrier();
  const auto run_of = [&](std::int64_t i, std::int64_t panels) { return runs_[static_cast<std::size_t>(i / panels)]; };
  const auto runs = static_cast<std::int64_t>(runs_.size());
  const std::int64_t active_panels = round_up(op.intermediate, kPanelRows) / kPanelRows;
  context.share(2, runs * active_panels, 1, [&](std::int64_t i, std::int64_t) {
    gate_and_up(step, context, run_of(i, active_panels), i % active_panels, hidden);
  });
  context.barrier();
  const std::int64_t active_stride = round_up(op.intermediate, kBlock);
  if (context.batch.observer != nullptr && context.thread == 0) {
    for (const Run& run : runs_) {
      (*context.batch.observer)(expert_weight(op, run.expert, "gate"),
                                {in_.f32 + run.first * in_stride, run.count, hidden, in_stride});
      (*context.batch.observer)(expert_weight(op, run.expert, "down"),
                                {active_.f32 + run.first * active_stride, run.count, op.intermediate, active_stride});
    }
  }
  if (op.down_rotation != 0 || step.active_q8 || step.active_bf16) {
    context.share(3, assignments_, 4, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t slot = begin; slot < end; ++slot) {
        if (op.down_rotation != 0) rotate_blocks(active_.f32 + slot * active_stride, op.intermediate, op.down_rotation);
        convert_row(context.kernels, active_, slot, op.intermediate, active_stride, step.active_q8, step.active_bf16);
      }
    });
    context.barrier();
  }
  const std::int64_t out_panels = round_up(out_width, kPanelRows) / kPanelRows;
  context.share(4, runs * out_panels, 1, [&](std::int64_t i, std::int64_t) {
    const Run& run = run_of(i, out_panels);
    const Expert& expert = step.experts[static_cast<std::size_t>(run.expert)];
    LinearTile tile{};
    tile.matrix = &expert.down->view();
    tile.bias = expert.down_bias;
    tile.panel = i % out_panels;
    tile.tokens = run.count;
    tile.out = results_.as<float>() + run.first * out_width;
    tile.out_stride = out_width;
    tile.scratch = context.linear_scratch;
    tile.one_order = context.one_order;
    multiply(context.kernels, expert.active_input, active_, run.first, active_stride, tile);
  });
  context.barrier();
  // In the order of choice, whatever the order of computing.
  context.share(5, tokens, 4, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t t = begin; t < end; ++t) {
      float* const row = out + t * out_width;
      std::fill(row, row + out_width, 0.0F);
      for (std::int64_t j = 0; j < op.top_k; ++j) {
        const auto at = static_cast<std::size_t>(t * op.top_k + j);
        const float* const result = results_.as<float>() + slots_[at] * out_width;
        for (std::int64_t i = 0; i < out_width; ++i) row[i] += weights_[at] * result[i];
      }
    }
  });
}

}  // namespace metal_marlin::cpu
