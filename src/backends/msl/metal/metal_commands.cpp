#include "backends/msl/metal/metal_commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "metal_marlin/error.h"

namespace metal_marlin::msl::metal {
namespace {

constexpr std::uint32_t kMostBuffers = 31;
// What setBytes takes; more goes to a buffer.
constexpr std::size_t kInlineBytes = 4096;
// What a thread reads and writes at most, about: bounds the estimate for a small grid over a large buffer.
constexpr std::size_t kBytesOfThread = 1024;
// What an Apple GPU computes while it reads a byte: from 2.6 TFLOP/s at 68 GB/s (M1) on.
constexpr double kOperationsOfByte = 32;

constexpr std::size_t round_up_16(std::size_t n) {
  return (n + 15) / 16 * 16;
}

[[noreturn]] void refuse(std::string_view kernel, const std::string& what) {
  throw Error(ErrorCode::kUnsupported, fmt::format("kernel {}: {}", kernel, what));
}

void check_limits(const MetalPipeline& pipeline, std::size_t threads, const Arguments& arguments, std::size_t most) {
  const MTL::ComputePipelineState& state = *pipeline.state().get();
  if (threads > state.maxTotalThreadsPerThreadgroup()) {
    refuse(pipeline.name(), fmt::format("a threadgroup of {} threads, this GPU takes {}", threads,
                                        state.maxTotalThreadsPerThreadgroup()));
  }
  std::size_t memory = state.staticThreadgroupMemoryLength();
  for (const auto& [index, argument] : arguments.threadgroups()) memory += round_up_16(argument.bytes);
  if (memory > most)
    refuse(pipeline.name(), fmt::format("{} bytes of threadgroup memory, this GPU has {}", memory, most));
}

// The bytes that a dispatch may touch, but no more than its threads would; or those that could be read while it
// computes.
std::size_t work_of(const Launch& launch, std::span<const Access> accesses, double operations) {
  std::size_t bytes = 0;
  for (const Access& access : accesses) bytes += access.end - access.begin;
  const std::size_t read =
      std::min(bytes, std::size_t{launch.threads[0]} * launch.threads[1] * launch.threads[2] * kBytesOfThread);
  return std::max(read, static_cast<std::size_t>(operations / kOperationsOfByte));
}

std::vector<Access> accesses_of(const MslKernel& kernel, const Arguments& arguments) {
  std::vector<Access> out;
  for (std::uint32_t i = 0; i < kernel.argument_count; ++i) {
    const MslArgument& argument = kernel.arguments[i];
    if (argument.kind != kMslBuffer) continue;
    const auto found = arguments.buffers().find(argument.index);
    if (found == arguments.buffers().end()) continue;
    const auto* const bound = std::get_if<BufferArgument>(&found->second);
    if (bound == nullptr) continue;
    const auto& buffer = static_cast<const MetalBuffer&>(*bound->buffer);
    const std::size_t begin = buffer.piece()->begin();
    out.push_back({&buffer.piece()->buffer(), begin + bound->offset, begin + buffer.size(), argument.read_only == 0});
  }
  return out;
}

// An encoder, ended whatever happens: Metal ends the program over one that is let go open.
class Encoder {
 public:
  explicit Encoder(MTL::CommandBuffer& buffer)
      : encoder_(NS::RetainPtr(buffer.computeCommandEncoder(MTL::DispatchTypeConcurrent))) {
    if (!encoder_) throw Error(ErrorCode::kInternal, "Metal makes no encoder");
  }
  ~Encoder() { encoder_->endEncoding(); }
  Encoder(const Encoder&) = delete;
  Encoder& operator=(const Encoder&) = delete;
  MTL::ComputeCommandEncoder* operator->() const { return encoder_.get(); }

 private:
  NS::SharedPtr<MTL::ComputeCommandEncoder> encoder_;
};

void put(const Encoder& encoder, const Launch& launch, bool labels) {
  if (launch.waits) encoder->memoryBarrier(MTL::BarrierScopeBuffers);
  if (labels) encoder->insertDebugSignpost(string_of(launch.kernel));
  encoder->setComputePipelineState(launch.state.get());
  for (const Launch::Bound& bound : launch.buffers)
    encoder->setBuffer(&bound.piece->buffer(), bound.piece->begin() + bound.offset, bound.index);
  for (const Launch::Bytes& bytes : launch.bytes)
    encoder->setBytes(bytes.value.data(), bytes.value.size(), bytes.index);
  for (const auto& [index, bytes] : launch.threadgroups) encoder->setThreadgroupMemoryLength(round_up_16(bytes), index);
  const auto size = [](const Size3& s) { return MTL::Size::Make(s[0], s[1], s[2]); };
  encoder->dispatchThreads(size(launch.threads), size(launch.group));
}

// Which encoders Metal says were at fault.
std::string faulted_encoders(const NS::Error& error) {
  std::string out;
  const NS::Dictionary* const info = error.userInfo();
  const auto* const encoders =
      info == nullptr ? nullptr : info->object<NS::Array>(MTL::CommandBufferEncoderInfoErrorKey);
  for (NS::UInteger i = 0; encoders != nullptr && i < encoders->count(); ++i) {
    const auto* const encoder = encoders->object<MTL::CommandBufferEncoderInfo>(i);
    if (encoder->errorState() == MTL::CommandEncoderErrorStateFaulted)
      out += fmt::format("; at fault: {}", text_of(encoder->label()));
  }
  return out;
}

std::string name_of(std::span<const Launch> launches) {
  if (launches.size() == 1) return launches.front().kernel;
  return fmt::format("{} to {} ({} dispatches)", launches.front().kernel, launches.back().kernel, launches.size());
}

NS::SharedPtr<MTL::CommandBuffer> new_command_buffer(MTL::CommandQueue& queue, bool labels) {
  const NS::SharedPtr<MTL::CommandBufferDescriptor> descriptor =
      NS::TransferPtr(MTL::CommandBufferDescriptor::alloc()->init());
  descriptor->setRetainedReferences(false);
  if (labels) descriptor->setErrorOptions(MTL::CommandBufferErrorOptionEncoderExecutionStatus);
  MTL::CommandBuffer* const buffer = queue.commandBuffer(descriptor.get());
  if (buffer == nullptr) throw Error(ErrorCode::kInternal, "Metal makes no command buffer");
  return NS::RetainPtr(buffer);
}

}  // namespace

MetalCommands::~MetalCommands() {
  const auto pool = scoped_pool();
  for (const Running& running : running_) running.buffer->waitUntilCompleted();
  running_.clear();
  launches_.clear();
}

void MetalCommands::bind(Launch& launch, const MslArgument& argument, const Arguments& arguments) {
  const auto found = arguments.buffers().find(argument.index);
  if (found == arguments.buffers().end()) return;  // optional
  if (argument.index >= kMostBuffers)
    refuse(launch.kernel, fmt::format("buffer {}, Metal has {}", argument.index, kMostBuffers));
  if (const auto* const bound = std::get_if<BufferArgument>(&found->second)) {
    const auto& buffer = static_cast<const MetalBuffer&>(*bound->buffer);
    launch.buffers.push_back({argument.index, buffer.piece(), bound->offset});
    return;
  }
  const auto& bytes = std::get<BytesArgument>(found->second);
  if (bytes.size() <= kInlineBytes) {
    launch.bytes.push_back({argument.index, bytes});
    return;
  }
  std::shared_ptr<const Piece> piece = queue_->memory->allocate(bytes.size());
  std::memcpy(piece->contents(), bytes.data(), bytes.size());
  launch.buffers.push_back({argument.index, std::move(piece), 0});
}

// After which of those before it a launch runs, and in which command buffer.
void MetalCommands::order(Launch& launch, std::span<const Access> accesses, double operations) {
  const std::size_t work = work_of(launch, accesses, operations);
  const std::size_t limit = first_ ? queue_->limits.first : queue_->limits.each;
  launch.begins = launches_.empty() || work_ + work > limit;
  if (launch.begins) {
    first_ = launches_.empty();
    work_ = 0;
    hazards_.clear();  // a fence orders command buffers
  }
  work_ += work;
  launch.waits = hazards_.must_wait(accesses);
}

void MetalCommands::encode(const Pipeline& pipeline, const Size3& threads, const Size3& group,
                           const Arguments& arguments) {
  const auto pool = scoped_pool();
  const auto& metal = static_cast<const MetalPipeline&>(pipeline);
  check_limits(metal, std::size_t{group[0]} * group[1] * group[2], arguments, queue_->threadgroup_bytes);
  const MslKernel& kernel = pipeline.kernel();
  Launch launch;
  launch.kernel = kernel.name;
  launch.state = metal.state();
  launch.threads = threads;
  launch.group = group;
  for (std::uint32_t i = 0; i < kernel.argument_count; ++i) {
    if (kernel.arguments[i].kind == kMslBuffer) bind(launch, kernel.arguments[i], arguments);
  }
  for (const auto& [index, argument] : arguments.threadgroups())
    launch.threadgroups.emplace_back(index, argument.bytes);
  order(launch, accesses_of(kernel, arguments), arguments.operations());
  launches_.push_back(std::move(launch));
}

void MetalCommands::submit(std::span<const Launch> launches) {
  Running running{new_command_buffer(*queue_->queue.get(), queue_->labels), name_of(launches)};
  {
    const Encoder encoder(*running.buffer.get());
    if (queue_->labels) encoder->setLabel(string_of(running.kernels));
    if (queue_->fence_updated) encoder->waitForFence(queue_->fence.get());
    for (const Launch& launch : launches) put(encoder, launch, queue_->labels);
    encoder->updateFence(queue_->fence.get());
  }
  running_.push_back(running);
  running.buffer->commit();
  queue_->fence_updated = true;
}

void MetalCommands::commit() {
  const auto pool = scoped_pool();
  const std::lock_guard<std::mutex> lock(queue_->mutex);
  const std::span<const Launch> all(launches_);
  for (std::size_t begin = 0; begin < all.size();) {
    std::size_t end = begin + 1;
    while (end < all.size() && !all[end].begins) ++end;
    submit(all.subspan(begin, end - begin));
    begin = end;
  }
}

void MetalCommands::wait() {
  const auto pool = scoped_pool();
  const std::vector<Running> running = std::move(running_);
  running_.clear();
  for (const Running& each : running) each.buffer->waitUntilCompleted();
  for (const Running& each : running) {
    if (each.buffer->status() != MTL::CommandBufferStatusError) continue;
    const NS::Error* const error = each.buffer->error();
    throw Error(ErrorCode::kInternal, fmt::format("Metal: {}, running {}{}", text_of(error), each.kernels,
                                                  error == nullptr ? "" : faulted_encoders(*error)));
  }
  if (!running.empty()) seconds_ = running.back().buffer->GPUEndTime() - running.front().buffer->GPUStartTime();
}

}  // namespace metal_marlin::msl::metal
