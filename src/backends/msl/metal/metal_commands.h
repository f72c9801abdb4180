// Work for an Apple GPU: how dispatches become command buffers, and what waits for what.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backends/msl/device.h"
#include "backends/msl/metal/barriers.h"
#include "backends/msl/metal/metal_memory.h"
#include "backends/msl/metal/metal_objects.h"
#include "backends/msl/metal/work_limits.h"

namespace metal_marlin::msl::metal {

class MetalPipeline final : public Pipeline {
 public:
  MetalPipeline(const MslKernel& kernel, NS::SharedPtr<MTL::ComputePipelineState> state)
      : Pipeline(kernel), state_(std::move(state)) {}
  [[nodiscard]] const NS::SharedPtr<MTL::ComputePipelineState>& state() const { return state_; }

 private:
  NS::SharedPtr<MTL::ComputePipelineState> state_;
};

// What the commands of one line of work share.
struct MetalQueue {
  NS::SharedPtr<MTL::CommandQueue> queue;
  // Every encoder waits for the one committed before it; hazard tracking does not see to that.
  NS::SharedPtr<MTL::Fence> fence;
  bool fence_updated = false;
  std::mutex mutex;  // encoders come in the order of their commits
  std::shared_ptr<MetalMemory> memory;
  WorkLimits limits;
  std::size_t threadgroup_bytes = 0;
  bool labels = false;  // kernels are named for Metal's debugger, and errors name the encoders at fault
};

// One dispatch, with all that must live until it has run: the command buffers retain nothing.
struct Launch {
  struct Bound {
    std::uint32_t index;
    std::shared_ptr<const Piece> piece;
    std::size_t offset;  // in the piece
  };
  struct Bytes {
    std::uint32_t index;
    BytesArgument value;
  };
  const char* kernel = nullptr;
  NS::SharedPtr<MTL::ComputePipelineState> state;
  std::vector<Bound> buffers;
  std::vector<Bytes> bytes;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> threadgroups;  // index and bytes
  Size3 threads{};
  Size3 group{};
  bool waits = false;   // for those before it in its encoder
  bool begins = false;  // a command buffer
};

class MetalCommands final : public Commands {
 public:
  explicit MetalCommands(std::shared_ptr<MetalQueue> queue) : queue_(std::move(queue)) {}
  ~MetalCommands() override;  // waits for what still runs
  void commit() override;
  void wait() override;
  [[nodiscard]] double seconds() const override { return seconds_; }

 protected:
  void encode(const Pipeline& pipeline, const Size3& threads, const Size3& group, const Arguments& arguments) override;

 private:
  struct Running {
    NS::SharedPtr<MTL::CommandBuffer> buffer;
    std::string kernels;
  };
  void bind(Launch& launch, const MslArgument& argument, const Arguments& arguments);
  void order(Launch& launch, std::span<const Access> accesses, double operations);
  void submit(std::span<const Launch> launches);

  std::shared_ptr<MetalQueue> queue_;
  std::vector<Launch> launches_;
  Hazards hazards_;       // of the last command buffer
  std::size_t work_ = 0;  // in it
  bool first_ = true;     // it is
  std::vector<Running> running_;
  double seconds_ = 0;
};

}  // namespace metal_marlin::msl::metal
