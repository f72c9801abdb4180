#include <fmt/format.h>

#include <Metal/Metal.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <new>

#include "recording.h"
#include "rules.h"

using metal_stub::Bound;
using metal_stub::Dispatch;
using metal_stub::Lock;
using metal_stub::Pass;
using metal_stub::Rule;

namespace {

constexpr NS::UInteger kMostIndex = 30;
constexpr NS::UInteger kInlineBytes = 4096;
// What a thread touches at most, for the estimate of a small grid over a large buffer.
constexpr std::size_t kBytesOfThread = 1024;

// Committed and not completed, in order.
std::vector<MTL::CommandBuffer*>& committed() {
  static std::vector<MTL::CommandBuffer*> all;
  return all;
}
int& commits() {
  static int passes = 0;
  return passes;
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <typename Do>
void for_dispatches(const MTL::CommandBuffer& buffer, const Do& action) {
  for (const auto& pass : buffer.passes_) {
    for (const auto& group : pass->groups) {
      for (const Dispatch& dispatch : group) action(dispatch);
    }
  }
}

// Against the passes in flight that no fence orders before this one.
void check_fences(const Pass& pass) {
  for (const MTL::CommandBuffer* const buffer : committed()) {
    for (const auto& other : buffer->passes_) {
      if (pass.after.contains(other->number)) continue;
      for (const auto& earlier_group : other->groups) {
        for (const Dispatch& earlier : earlier_group) {
          for (const auto& group : pass.groups) {
            for (const Dispatch& later : group) {
              const std::string found = conflict(earlier, later);
              if (!found.empty()) return report(Rule::kFence, "no fence between command buffers, " + found);
            }
          }
        }
      }
    }
  }
}

// What the pass waits for, by fences; then its own updates.
void order(Pass& pass) {
  pass.number = ++commits();
  for (const MTL::Fence* const fence : pass.waits) {
    fence->touch_("waitForFence");
    if (fence->updated_by_ == 0) report(Rule::kFence, "an encoder waits for a fence that none before it updates");
    for (const MTL::CommandBuffer* const buffer : committed()) {
      for (const auto& other : buffer->passes_) {
        if (other->number != fence->updated_by_) continue;
        pass.after.insert(other->number);
        pass.after.insert(other->after.begin(), other->after.end());
      }
    }
  }
  check_fences(pass);
  for (const MTL::Fence* const fence : pass.updates) const_cast<MTL::Fence*>(fence)->updated_by_ = pass.number;
}

void check_work(const MTL::CommandBuffer& buffer) {
  std::size_t work = 0;
  int dispatches = 0;
  for_dispatches(buffer, [&](const Dispatch& dispatch) {
    std::size_t bytes = 0;
    for (const metal_stub::Use& use : uses_of(dispatch)) bytes += use.end - use.begin;
    work += std::min(bytes, kBytesOfThread * dispatch.threads[0] * dispatch.threads[1] * dispatch.threads[2]);
    ++dispatches;
  });
  const std::size_t most = metal_stub::machine().most_work;
  if (most != 0 && dispatches > 1 && work > most)
    report(Rule::kWork,
           fmt::format("a command buffer of {} dispatches over {} bytes, at most {}", dispatches, work, most));
}

}  // namespace

namespace metal_stub {

std::string in_flight(const MTL::Buffer& buffer, std::size_t begin, std::size_t end) {
  for (const MTL::CommandBuffer* const work : committed()) {
    std::string found;
    for_dispatches(*work, [&](const Dispatch& dispatch) {
      for (const Use& use : uses_of(dispatch)) {
        if (use.buffer == &buffer && use.begin < end && begin < use.end)
          found = fmt::format("kernel {}, buffer {}", use.kernel, use.index);
      }
    });
    if (!found.empty()) return found;
  }
  return "";
}

void end_of_commands() {
  if (!committed().empty()) report(Rule::kCommandBuffer, "command buffers that nobody waited for");
  committed().clear();
  commits() = 0;
}

}  // namespace metal_stub

namespace MTL {

namespace {
alignas(NS::String) const std::array<char, sizeof(NS::String)> encoder_info_key{};  // for its address
}
const NS::ErrorUserInfoKey CommandBufferEncoderInfoErrorKey =
    reinterpret_cast<NS::String*>(const_cast<char*>(encoder_info_key.data()));

bool CommandEncoder::encoding(const char* method) const {
  touch_(method);
  if (ended_) report(Rule::kEncoderLife, fmt::format("{} after endEncoding", method));
  return !ended_;
}
void CommandEncoder::endEncoding() {
  const Lock lock(metal_stub::mutex());
  if (!encoding("endEncoding")) return;
  ended_ = true;
  buffer_.open_ = false;
}
void CommandEncoder::dealloc_() {
  if (!ended_) report(Rule::kEncoderLife, "an encoder is let go open");
}
void CommandEncoder::insertDebugSignpost(const NS::String* string) {
  const Lock lock(metal_stub::mutex());
  encoding("insertDebugSignpost");
  string->touch_("insertDebugSignpost");
}
void CommandEncoder::setLabel(const NS::String* label) {
  const Lock lock(metal_stub::mutex());
  encoding("setLabel");
  pass_.label = label->text_;
}

ComputeCommandEncoder::ComputeCommandEncoder(CommandBuffer& buffer, Pass& pass)
    : Referencing("MTL::ComputeCommandEncoder", buffer, pass), next_(std::make_unique<Dispatch>()) {}
ComputeCommandEncoder::~ComputeCommandEncoder() = default;

// Arguments stay bound in Metal; here each kernel is to be given its own.
void ComputeCommandEncoder::setComputePipelineState(const ComputePipelineState* state) {
  const Lock lock(metal_stub::mutex());
  if (!encoding("setComputePipelineState")) return;
  state->touch_("setComputePipelineState");
  *next_ = {};
  next_->state = state;
}
void ComputeCommandEncoder::setBuffer(const Buffer* buffer, NS::UInteger offset, NS::UInteger index) {
  const Lock lock(metal_stub::mutex());
  if (!encoding("setBuffer")) return;
  buffer->touch_("setBuffer");
  if (index > kMostIndex) return report(Rule::kBufferIndex, fmt::format("setBuffer at {}", index));
  next_->buffers[static_cast<std::uint32_t>(index)] = Bound{buffer, offset, buffer->end_of_piece_(offset), {}};
}
void ComputeCommandEncoder::setBytes(const void* bytes, NS::UInteger length, NS::UInteger index) {
  const Lock lock(metal_stub::mutex());
  if (!encoding("setBytes")) return;
  if (index > kMostIndex) return report(Rule::kBufferIndex, fmt::format("setBytes at {}", index));
  if (length == 0 || length > kInlineBytes)
    return report(Rule::kInlineBytes, fmt::format("setBytes of {} bytes at {}", length, index));
  const auto* const data = static_cast<const std::byte*>(bytes);
  next_->buffers[static_cast<std::uint32_t>(index)] = Bound{nullptr, 0, 0, {data, data + length}};
}
void ComputeCommandEncoder::setThreadgroupMemoryLength(NS::UInteger length, NS::UInteger index) {
  const Lock lock(metal_stub::mutex());
  if (!encoding("setThreadgroupMemoryLength")) return;
  if (length % 16 != 0)
    report(Rule::kThreadgroupBytes, fmt::format("{} bytes at {}, no multiple of 16", length, index));
  next_->threadgroups[static_cast<std::uint32_t>(index)] = static_cast<std::uint32_t>(length);
}
void ComputeCommandEncoder::memoryBarrier(BarrierScope scope) {
  const Lock lock(metal_stub::mutex());
  if (!encoding("memoryBarrier") || (scope & BarrierScopeBuffers) == 0) return;
  ++metal_stub::counts().barriers;
  pass_.groups.emplace_back();
}
void ComputeCommandEncoder::waitForFence(const Fence* fence) {
  const Lock lock(metal_stub::mutex());
  if (!encoding("waitForFence")) return;
  fence->touch_("waitForFence");
  pass_.waits.push_back(fence);
}
void ComputeCommandEncoder::updateFence(const Fence* fence) {
  const Lock lock(metal_stub::mutex());
  if (!encoding("updateFence")) return;
  fence->touch_("updateFence");
  pass_.updates.push_back(fence);
}
void ComputeCommandEncoder::dispatchThreads(Size threads, Size group) {
  const Lock lock(metal_stub::mutex());
  if (!encoding("dispatchThreads")) return;
  if (next_->state == nullptr) return report(Rule::kArgument, "a dispatch without a pipeline");
  const auto size = [](const Size& s) {
    return metal_stub::Size3{static_cast<std::uint32_t>(s.width), static_cast<std::uint32_t>(s.height),
                             static_cast<std::uint32_t>(s.depth)};
  };
  next_->threads = size(threads);
  next_->group = size(group);
  if (++metal_stub::counts().dispatches == metal_stub::machine().throws_at) throw std::bad_alloc();
  if (!check_dispatch(*next_)) return;
  if (!pass_.concurrent) pass_.groups.emplace_back();
  for (const Dispatch& before : pass_.groups.back()) {
    const std::string found = conflict(before, *next_);
    if (!found.empty()) report(Rule::kBarrier, "no barrier between dispatches, " + found);
  }
  pass_.groups.back().push_back(*next_);
}

NS::String* CommandBufferEncoderInfo::label() const {
  touch_("label");
  return NS::String::string(label_.c_str(), NS::UTF8StringEncoding);
}
CommandEncoderErrorState CommandBufferEncoderInfo::errorState() const {
  touch_("errorState");
  return CommandEncoderErrorStateFaulted;
}

CommandBufferDescriptor* CommandBufferDescriptor::alloc() {
  return new CommandBufferDescriptor;
}
CommandBufferDescriptor* CommandBufferDescriptor::init() {
  return this;
}
void CommandBufferDescriptor::setRetainedReferences(bool retained) {
  retained_ = retained;
}
void CommandBufferDescriptor::setErrorOptions(CommandBufferErrorOption options) {
  tells_encoders_ = (options & CommandBufferErrorOptionEncoderExecutionStatus) != 0;
}

CommandBuffer::CommandBuffer(CommandQueue& queue, const CommandBufferDescriptor& descriptor)
    : Referencing("MTL::CommandBuffer"), queue_(queue), tells_encoders_(descriptor.tells_encoders_) {
  if (descriptor.retained_)
    report(Rule::kCommandBuffer, "retained references, which cost time: what is in flight is kept by the device");
}
CommandBuffer::~CommandBuffer() = default;
void CommandBuffer::dealloc_() {
  for (const auto& pass : passes_) pass->groups.assign(1, {});
}
ComputeCommandEncoder* CommandBuffer::computeCommandEncoder(DispatchType type) {
  const Lock lock(metal_stub::mutex());
  touch_("computeCommandEncoder");
  if (status_ != CommandBufferStatusNotEnqueued) report(Rule::kCommandBuffer, "an encoder after commit");
  if (open_) report(Rule::kEncoderLife, "a second encoder while one is open");
  open_ = true;
  Pass& pass = *passes_.emplace_back(std::make_unique<Pass>());
  pass.concurrent = type == DispatchTypeConcurrent;
  return (new ComputeCommandEncoder(*this, pass))->autorelease();
}
void CommandBuffer::commit() {
  const Lock lock(metal_stub::mutex());
  touch_("commit");
  if (status_ != CommandBufferStatusNotEnqueued) return report(Rule::kCommandBuffer, "committed twice");
  if (open_) report(Rule::kEncoderLife, "committed with an open encoder");
  status_ = CommandBufferStatusCommitted;
  ++metal_stub::counts().command_buffers;
  for_dispatches(*this, [&](const Dispatch& dispatch) {
    dispatch.state->touch_("commit");
    for (const metal_stub::Use& use : uses_of(dispatch)) {
      use.buffer->touch_("commit");
      if (metal_stub::machine().macos >= 15 && !queue_.resident_(use.buffer)) {
        report(Rule::kResidency,
               fmt::format("kernel {}, buffer {} is in no residency set of the queue", use.kernel, use.index));
      }
    }
  });
  check_work(*this);
  for (const auto& pass : passes_) order(*pass);
  retain();  // Metal's, until it is completed
  committed().push_back(this);
}
void CommandBuffer::waitUntilCompleted() {
  const Lock lock(metal_stub::mutex());
  touch_("waitUntilCompleted");
  if (status_ == CommandBufferStatusNotEnqueued) return report(Rule::kCommandBuffer, "waited for before commit");
  while (status_ == CommandBufferStatusCommitted) committed().front()->execute_();
}
// Dispatches that no barrier parts run last first: one that needs what another makes goes wrong.
void CommandBuffer::execute_() {
  begin_ = now();
  std::string& injected = metal_stub::machine().next_error;
  if (injected.empty()) {
    for (const auto& pass : passes_) {
      for (const auto& group : pass->groups) {
        for (auto dispatch = group.rbegin(); dispatch != group.rend(); ++dispatch) run_on_host_executor(*dispatch);
      }
    }
  }
  error_ = std::exchange(injected, "");
  end_ = now();
  status_ = error_.empty() ? CommandBufferStatusCompleted : CommandBufferStatusError;
  committed().erase(std::find(committed().begin(), committed().end(), this));
  release();
}
CommandBufferStatus CommandBuffer::status() const {
  const Lock lock(metal_stub::mutex());
  touch_("status");
  return status_;
}
NS::Error* CommandBuffer::error() const {
  const Lock lock(metal_stub::mutex());
  touch_("error");
  if (error_.empty()) return nullptr;
  if (!tells_encoders_) return (new NS::Error(error_, nullptr))->autorelease();
  std::vector<NS::Object*> infos;
  for (const auto& pass : passes_) infos.push_back((new CommandBufferEncoderInfo(pass->label))->autorelease());
  auto* const list = (new NS::Array(infos))->autorelease();
  auto* const info = (new NS::Dictionary({{CommandBufferEncoderInfoErrorKey, list}}))->autorelease();
  return (new NS::Error(error_, info))->autorelease();
}
double CommandBuffer::GPUStartTime() const {
  touch_("GPUStartTime");
  return begin_;
}
double CommandBuffer::GPUEndTime() const {
  touch_("GPUEndTime");
  return end_;
}

CommandBuffer* CommandQueue::commandBuffer(const CommandBufferDescriptor* descriptor) {
  const Lock lock(metal_stub::mutex());
  touch_("commandBuffer");
  descriptor->touch_("commandBuffer");
  return (new CommandBuffer(*this, *descriptor))->autorelease();
}
void CommandQueue::addResidencySet(const ResidencySet* set) {
  const Lock lock(metal_stub::mutex());
  touch_("addResidencySet");
  const_cast<ResidencySet*>(set)->retain();
  sets_.push_back(set);
}
void CommandQueue::dealloc_() {
  for (const ResidencySet* const set : sets_) const_cast<ResidencySet*>(set)->release();
}
bool CommandQueue::resident_(const Buffer* buffer) const {
  return std::any_of(sets_.begin(), sets_.end(),
                     [&](const ResidencySet* set) { return set->requested_ && set->holds_(buffer); });
}

}  // namespace MTL
