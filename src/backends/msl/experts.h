// A mixture of experts on a device: products of tokens with the experts that they chose.
// Grouped by expert (shaders/moe_expert_gemm.metal), or assignment by assignment where there
// are few tokens and in the exact mode (shaders/moe_dispatch_optimized.metal).
#pragma once

#include <functional>

#include "backends/msl/matrix_stack.h"
#include "backends/msl/moe_dispatch.h"
#include "common/experts_params.h"

namespace metal_marlin::msl {

// Memory that experts work in, made once for the largest batch.
class ExpertsWorkspace {
 public:
  ExpertsWorkspace(Device& device, std::int64_t max_tokens, std::int64_t chosen, std::int64_t experts,
                   std::int64_t hidden, std::int64_t intermediate);
  [[nodiscard]] const LinearWorkspace& linear() const { return linear_; }
  [[nodiscard]] MoeGroups groups() const { return {counts_.get(), offsets_.get(), order_.get(), places_.get()}; }
  [[nodiscard]] Buffer& gate() const { return *gate_; }  // f32 [assignments][intermediate]
  [[nodiscard]] Buffer& up() const { return *up_; }
  [[nodiscard]] Buffer& result() const { return *result_; }  // f32 [assignments][hidden]

 private:
  LinearWorkspace linear_;
  std::unique_ptr<Buffer> counts_, offsets_, order_, places_;
  std::unique_ptr<Buffer> gate_, up_, result_;
};

struct ExpertsCall {
  Buffer* x = nullptr;        // f32 [tokens][hidden]
  Buffer* ids = nullptr;      // i32 [tokens][chosen]
  Buffer* weights = nullptr;  // f32 [tokens][chosen]
  Buffer* y = nullptr;        // f32 [tokens][hidden]
  std::int64_t tokens = 0;
  std::int64_t chosen = 0;
  Activations mode = Activations::kInt8;  // kF32: exact
  std::uint32_t down_rotation = 0;        // as MoeOp's
  GateParams gate = gate_params(GateActivation::kSilu);
};

class Experts {
 public:
  // load(expert, projection) gives an expert's gate, up or down. \throws Error (kUnsupported)
  // naming `name` and the expert when its gate and up differ in format.
  using Load = std::function<Weight(std::int64_t expert, const char* projection)>;
  // The same of its bias.
  using LoadBias = std::function<std::vector<float>(std::int64_t expert, const char* projection)>;
  // load_bias: null: there are none.
  Experts(Device& device, const std::string& name, std::int64_t experts, std::int64_t hidden, std::int64_t intermediate,
          const Load& load, ThreadPool& pool, const LoadBias& load_bias = {});

  // y = sum over the choices of weight * down(the gated product of gate x and up x), projections with their biases.
  void encode(Commands& commands, const ExpertsCall& call, const ExpertsWorkspace& workspace) const;
  // Up to so many assignments go one by one.
  static constexpr std::int64_t kFewAssignments = 32;
  [[nodiscard]] std::size_t bytes() const;

 private:
  // Experts of one format.
  struct GateUpClass {
    MatrixStack gate;
    MatrixStack up;
    std::unique_ptr<Buffer> slots;
  };
  struct DownClass {
    MatrixStack down;
    std::unique_ptr<Buffer> slots;
  };
  [[nodiscard]] DecodeParams decode_params(const MatrixStack& stack, const ExpertsCall& call, bool accumulate) const;
  void encode_few(Commands& commands, const ExpertsCall& call, const ExpertsWorkspace& workspace) const;
  void rotate_active(Commands& commands, const ExpertsCall& call, const ExpertsWorkspace& workspace) const;
  void encode_grouped(Commands& commands, const ExpertsCall& call, const ExpertsWorkspace& workspace) const;
  void multiply(Commands& commands, const MatrixStack& stack, Buffer& slots, const ExpertsCall& call, bool by_token,
                Buffer& y, const ExpertsWorkspace& workspace) const;

  Device& device_;
  std::int64_t experts_;
  std::int64_t hidden_;
  std::int64_t intermediate_;
  std::vector<GateUpClass> gate_up_;
  std::vector<DownClass> down_;
  // f32 [experts][rows]; null: there are none.
  std::unique_ptr<Buffer> gate_biases_, up_biases_, down_biases_;
};

}  // namespace metal_marlin::msl
