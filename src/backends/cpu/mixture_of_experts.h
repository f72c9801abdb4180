// A mixture of experts on the CPU: tokens are grouped by expert, so that every
// chosen expert's weights are read once.
#pragma once

#include <vector>

#include "backends/cpu/program.h"
#include "backends/cpu/step_context.h"

namespace metal_marlin::cpu {

// The workspace of all such steps of a model, one step at a time.
class MixtureOfExperts {
 public:
  MixtureOfExperts(const Program& program, const RunnerLimits& limits, WorkspaceMemory& memory);

  // Called by every thread. in: [tokens][hidden], logits: [tokens][experts], out: [tokens][out_width]
  void run(const MoeStep& step, const StepContext& context, const float* in, std::int64_t hidden, const float* logits,
           float* out, std::int64_t out_width);

  // Tokens that each expert got so far, [layer][expert].
  [[nodiscard]] const std::vector<std::vector<std::int64_t>>& totals() const { return totals_; }

 private:
  struct Run {  // of one expert's tokens
    std::int64_t expert;
    std::int64_t first;
    std::int64_t count;
  };
  void group_by_expert(const MoeStep& step, std::int64_t tokens);
  void gate_and_up(const MoeStep& step, const StepContext& context, const Run& run, std::int64_t panel,
                   std::int64_t hidden);

  std::int64_t assignments_ = 0;       // of this step: tokens * top_k
  std::vector<std::int32_t> experts_;  // [tokens][top_k]
  std::vector<float> weights_;         // likewise
  std::vector<std::int32_t> slots_;    // likewise: place in the order by expert
  std::vector<std::int32_t> tokens_;   // by slot
  std::vector<std::int64_t> counts_;   // by expert
  std::vector<Run> runs_;
  std::vector<std::vector<std::int64_t>> totals_;
  std::vector<float> scores_;  // scratch of each token's routing
  // Rows by slot.
  AlignedBuffer in_f32_, in_q8_, in_bf16_;
  AlignedBuffer active_f32_, active_q8_, active_bf16_;
  AlignedBuffer results_;
  LinearInputs in_{};
  LinearInputs active_{};
};

}  // namespace metal_marlin::cpu
