// One weight's way into its format.
#pragma once

#include <map>
#include <string>
#include <tuple>

#include "quantize/gptq.h"
#include "quantize/jobs.h"

namespace metal_marlin {

class WeightQuantizer {
 public:
  // The arguments must outlive this.
  WeightQuantizer(const Checkpoint& checkpoint, const JobPlan& plan, ThreadPool& pool)
      : checkpoint_(checkpoint), plan_(plan), pool_(pool) {}

  struct Result {
    PackedMatrix matrix;
    QuantizedTensor report;  // all but what the matrix' bytes tell
  };
  // inputs: what the linear layer read, or null where that is not known. \throws Error naming the
  // tensor.
  Result quantize(const Job& job, const HessianSum* inputs);
  // The bytes of a weight that is kept, rotated if its outputs are, in the type that the plan says.
  struct Kept {
    std::span<const std::byte> bytes;
    std::shared_ptr<const void> owner;
  };
  [[nodiscard]] Kept keep(const Job& job) const;
  // Forgets what it made of inputs that are gone.
  void forget_inputs() { seen_.clear(); }

 private:
  // What came of the inputs of layers that read the same.
  struct Seen {
    HessianSum rotated{0};          // if they are
    std::vector<float> importance;  // of each column; empty: they say nothing
    std::optional<GptqFactor<float>> factor;
    bool factored = false;  // it was tried
  };
  struct Rows;
  [[nodiscard]] Rows rows_of(const Job& job) const;
  // Nothing: the method cannot use these inputs.
  const Seen* seen(const HessianSum& inputs, const Job& job);
  float global_scale(const Job& job);

  const Checkpoint& checkpoint_;
  const JobPlan& plan_;
  ThreadPool& pool_;
  std::map<std::tuple<const HessianSum*, int, bool>, Seen> seen_;
  std::map<std::string, float> global_scales_;
};

}  // namespace metal_marlin
