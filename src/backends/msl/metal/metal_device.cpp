#include "backends/msl/metal/metal_device.h"

#include <Metal/Metal.hpp>
#include <algorithm>
#include <array>
#include <cstring>

#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

// Buffers lie in few large ones: Metal stops at 499,000 of its own.
constexpr std::size_t kSlabBytes = std::size_t{64} << 20;
constexpr std::size_t kAlignment = 256;
// What setBytes takes; more goes to a buffer.
constexpr std::size_t kInlineBytes = 4096;

std::string text_of(const NS::Error* error) {
  return error == nullptr ? "no reason is given" : error->localizedDescription()->utf8String();
}

NS::String* string_of(const std::string& text) {
  return NS::String::string(text.c_str(), NS::UTF8StringEncoding);
}

std::size_t round_up(std::size_t n, std::size_t to) {
  return (n + to - 1) / to * to;
}

// Memory that processor and GPU share.
class Slab {
 public:
  Slab(MTL::Device& device, std::size_t bytes)
      : buffer_(NS::TransferPtr(device.newBuffer(bytes, MTL::ResourceStorageModeShared))), size_(bytes) {
    if (!buffer_)
      throw Error(ErrorCode::kOutOfMemory, "cannot allocate " + std::to_string(bytes) + " bytes of Metal memory");
  }
  [[nodiscard]] MTL::Buffer* buffer() const { return buffer_.get(); }
  // Where `bytes` begin; nothing: there is no room.
  std::optional<std::size_t> take(std::size_t bytes) {
    const std::size_t begin = round_up(used_, kAlignment);
    if (begin + bytes > size_) return std::nullopt;
    used_ = begin + bytes;
    return begin;
  }

 private:
  NS::SharedPtr<MTL::Buffer> buffer_;
  std::size_t size_;
  std::size_t used_ = 0;
};

// A piece of a slab, which lives as long as any of its pieces.
class MetalBuffer final : public Buffer {
 public:
  MetalBuffer(std::shared_ptr<Slab> slab, std::size_t begin, std::size_t bytes)
      : Buffer(bytes), slab_(std::move(slab)), begin_(begin) {}
  [[nodiscard]] MTL::Buffer* buffer() const { return slab_->buffer(); }
  [[nodiscard]] std::size_t begin() const { return begin_; }

 protected:
  void write(std::span<const std::byte> bytes, std::size_t offset) override {
    std::memcpy(contents() + offset, bytes.data(), bytes.size());
  }
  void read(std::span<std::byte> bytes, std::size_t offset) const override {
    std::memcpy(bytes.data(), contents() + offset, bytes.size());
  }

 private:
  [[nodiscard]] std::byte* contents() const { return static_cast<std::byte*>(buffer()->contents()) + begin_; }
  std::shared_ptr<Slab> slab_;
  std::size_t begin_;
};

class MetalPipeline final : public Pipeline {
 public:
  MetalPipeline(const MslKernel& kernel, NS::SharedPtr<MTL::ComputePipelineState> state)
      : Pipeline(kernel), state_(std::move(state)) {}
  [[nodiscard]] MTL::ComputePipelineState* state() const { return state_.get(); }

 private:
  NS::SharedPtr<MTL::ComputePipelineState> state_;
};

struct Launch {
  const MetalPipeline* pipeline;
  Size3 threads;
  Size3 group;
  Arguments arguments;
};

class MetalCommands final : public Commands {
 public:
  MetalCommands(MTL::CommandQueue& queue, std::size_t threadgroup_limit)
      : queue_(queue), threadgroup_limit_(threadgroup_limit) {}

  // One command buffer, one encoder: dispatches run in order.
  void commit() override {
    if (launches_.empty()) return;
    const NS::SharedPtr<NS::AutoreleasePool> pool = NS::TransferPtr(NS::AutoreleasePool::alloc()->init());
    running_ = NS::RetainPtr(queue_.commandBuffer());
    MTL::ComputeCommandEncoder* const encoder = running_->computeCommandEncoder();
    for (const Launch& launch : launches_) put(*encoder, launch);
    encoder->endEncoding();
    running_->commit();
  }
  void wait() override {
    if (launches_.empty()) return;
    running_->waitUntilCompleted();
    if (running_->status() == MTL::CommandBufferStatusError)
      throw Error(ErrorCode::kInternal, "Metal: " + text_of(running_->error()));
    seconds_ = running_->GPUEndTime() - running_->GPUStartTime();
  }
  [[nodiscard]] double seconds() const override { return seconds_; }

 protected:
  void encode(const Pipeline& pipeline, const Size3& threads, const Size3& group, const Arguments& arguments) override {
    const auto& metal = static_cast<const MetalPipeline&>(pipeline);
    const std::size_t wanted = std::size_t{group[0]} * group[1] * group[2];
    if (wanted > metal.state()->maxTotalThreadsPerThreadgroup()) {
      throw Error(ErrorCode::kUnsupported, std::string(pipeline.name()) + ": " + std::to_string(wanted) +
                                               " threads in a threadgroup, this GPU takes " +
                                               std::to_string(metal.state()->maxTotalThreadsPerThreadgroup()));
    }
    std::size_t memory = metal.state()->staticThreadgroupMemoryLength();
    for (const auto& [index, argument] : arguments.threadgroups()) memory += round_up(argument.bytes, 16);
    if (memory > threadgroup_limit_) {
      throw Error(ErrorCode::kUnsupported, std::string(pipeline.name()) + ": " + std::to_string(memory) +
                                               " bytes of threadgroup memory, this GPU has " +
                                               std::to_string(threadgroup_limit_));
    }
    launches_.push_back({&metal, threads, group, arguments});
  }

 private:
  static void put(MTL::ComputeCommandEncoder& encoder, const Launch& launch) {
    encoder.setComputePipelineState(launch.pipeline->state());
    for (const auto& [index, argument] : launch.arguments.buffers()) {
      if (const auto* const buffer = std::get_if<BufferArgument>(&argument)) {
        const auto& metal = static_cast<const MetalBuffer&>(*buffer->buffer);
        encoder.setBuffer(metal.buffer(), metal.begin() + buffer->offset, index);
      } else {
        const auto& bytes = std::get<BytesArgument>(argument);
        if (bytes.size() > kInlineBytes) {
          throw Error(ErrorCode::kUnsupported, std::string(launch.pipeline->name()) + ": " +
                                                   std::to_string(bytes.size()) + " bytes by value, Metal takes 4096");
        }
        encoder.setBytes(bytes.data(), bytes.size(), index);
      }
    }
    for (const auto& [index, argument] : launch.arguments.threadgroups())
      encoder.setThreadgroupMemoryLength(round_up(argument.bytes, 16), index);
    const auto size = [](const Size3& s) { return MTL::Size::Make(s[0], s[1], s[2]); };
    encoder.dispatchThreads(size(launch.threads), size(launch.group));
  }

  MTL::CommandQueue& queue_;
  std::size_t threadgroup_limit_;
  std::vector<Launch> launches_;
  NS::SharedPtr<MTL::CommandBuffer> running_;
  double seconds_ = 0;
};

MTL::DataType data_type(const MslFunctionConstant& constant) {
  constexpr std::array<std::pair<std::string_view, MTL::DataType>, 7> types{{{"bool", MTL::DataTypeBool},
                                                                             {"int", MTL::DataTypeInt},
                                                                             {"uint", MTL::DataTypeUInt},
                                                                             {"short", MTL::DataTypeShort},
                                                                             {"ushort", MTL::DataTypeUShort},
                                                                             {"half", MTL::DataTypeHalf},
                                                                             {"float", MTL::DataTypeFloat}}};
  for (const auto& [name, type] : types) {
    if (name == constant.type) return type;
  }
  throw Error(ErrorCode::kUnsupported,
              "function constant " + std::string(constant.name) + " is of type " + constant.type);
}

class MetalDevice final : public Device {
 public:
  explicit MetalDevice(const std::filesystem::path& library)
      : device_(NS::TransferPtr(MTL::CreateSystemDefaultDevice())) {
    if (!device_) throw Error(ErrorCode::kNotFound, "there is no Metal device here");
    if (!device_->supportsFamily(MTL::GPUFamilyApple7)) {
      throw Error(ErrorCode::kUnsupported,
                  name() + " has no simdgroup matrices; a GPU of the family Apple7 or later is expected");
    }
    queue_ = NS::TransferPtr(device_->newCommandQueue());
    if (std::filesystem::exists(library)) load_library(library.string());
  }
  [[nodiscard]] std::string name() const override { return device_->name()->utf8String(); }
  std::unique_ptr<Buffer> allocate(std::size_t bytes) override {
    const std::size_t wanted = std::max<std::size_t>(bytes, 16);
    std::optional<std::size_t> begin = slab_ == nullptr ? std::nullopt : slab_->take(wanted);
    if (!begin) {
      slab_ = std::make_shared<Slab>(*device_.get(), std::max(wanted, kSlabBytes));
      begin = slab_->take(wanted);
    }
    return std::make_unique<MetalBuffer>(slab_, *begin, bytes);
  }
  std::unique_ptr<Commands> commands() override {
    return std::make_unique<MetalCommands>(*queue_.get(), device_->maxThreadgroupMemoryLength());
  }
  [[nodiscard]] DeviceTraits traits() const override {
    DeviceTraits traits;
    traits.threadgroup_bytes = static_cast<std::uint32_t>(device_->maxThreadgroupMemoryLength());
    return traits;
  }

 protected:
  std::unique_ptr<Pipeline> make_pipeline(const EmbeddedShader& shader, std::size_t index,
                                          const FunctionConstants& constants) override {
    const NS::SharedPtr<NS::AutoreleasePool> pool = NS::TransferPtr(NS::AutoreleasePool::alloc()->init());
    const MslKernel& kernel = shader.library->kernels[index];
    NS::SharedPtr<MTL::FunctionConstantValues> values = NS::TransferPtr(MTL::FunctionConstantValues::alloc()->init());
    static_cast<void>(constant_values(*shader.library, constants));  // refuses those that it has not
    for (std::uint32_t i = 0; i < shader.library->constant_count; ++i) {
      const MslFunctionConstant& constant = shader.library->constants[i];
      const auto given = constants.find(constant.index);
      if (given != constants.end()) values->setConstantValue(given->second.data(), data_type(constant), constant.index);
    }
    NS::Error* error = nullptr;
    const NS::SharedPtr<MTL::Function> function =
        NS::TransferPtr(library_of(shader).newFunction(string_of(kernel.name), values.get(), &error));
    if (!function) fail(shader, kernel, error);
    NS::SharedPtr<MTL::ComputePipelineState> state =
        NS::TransferPtr(device_->newComputePipelineState(function.get(), &error));
    if (!state) fail(shader, kernel, error);
    return std::make_unique<MetalPipeline>(kernel, std::move(state));
  }

 private:
  [[noreturn]] static void fail(const EmbeddedShader& shader, const MslKernel& kernel, const NS::Error* error) {
    throw Error(ErrorCode::kInternal,
                std::string(shader.name) + ".metal: kernel " + kernel.name + ": " + text_of(error));
  }

  void load_library(const std::string& path) {
    NS::Error* error = nullptr;
    all_ = NS::TransferPtr(device_->newLibrary(string_of(path), &error));
    if (!all_) throw Error(ErrorCode::kCorruptFile, path + ": " + text_of(error));
  }

  MTL::Library& library_of(const EmbeddedShader& shader) {
    if (all_) return *all_.get();
    NS::SharedPtr<MTL::Library>& library = compiled_[std::string(shader.name)];
    if (library) return *library.get();
    const NS::SharedPtr<MTL::CompileOptions> options = NS::TransferPtr(MTL::CompileOptions::alloc()->init());
    options->setLanguageVersion(MTL::LanguageVersion3_1);
    options->setFastMathEnabled(false);
    NS::Error* error = nullptr;
    library = NS::TransferPtr(device_->newLibrary(string_of(std::string(shader.source)), options.get(), &error));
    if (!library) throw Error(ErrorCode::kInternal, std::string(shader.name) + ".metal: " + text_of(error));
    return *library.get();
  }

  NS::SharedPtr<MTL::Device> device_;
  NS::SharedPtr<MTL::CommandQueue> queue_;
  NS::SharedPtr<MTL::Library> all_;
  std::map<std::string, NS::SharedPtr<MTL::Library>> compiled_;
  std::shared_ptr<Slab> slab_;
};

}  // namespace

bool has_metal_device() {
  const NS::SharedPtr<MTL::Device> device = NS::TransferPtr(MTL::CreateSystemDefaultDevice());
  return static_cast<bool>(device) && device->supportsFamily(MTL::GPUFamilyApple7);
}

std::unique_ptr<Device> make_metal_device(const std::filesystem::path& library) {
  return std::make_unique<MetalDevice>(library);
}

}  // namespace metal_marlin::msl
