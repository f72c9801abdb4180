#include "backends/msl/metal/metal_device.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "backends/msl/metal/gpu_cores.h"
#include "backends/msl/metal/metal_commands.h"
#include "backends/msl/metal/metal_library.h"
#include "base/memory.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

using metal::scoped_pool;
using metal::text_of;

struct Found {
  NS::SharedPtr<MTL::Device> device;
  std::string why_not;
};

// Those whose features it has: "Apple7, Mac2, Metal3".
std::string families(MTL::Device& device) {
  std::vector<std::string> out;
  const auto ask = [&](const char* name, NS::Integer first, NS::Integer last, NS::Integer begin) {
    for (NS::Integer i = first; i <= last; ++i) {
      if (device.supportsFamily(static_cast<MTL::GPUFamily>(begin + i))) out.push_back(fmt::format("{}{}", name, i));
    }
  };
  ask("Apple", 1, 12, MTL::GPUFamilyApple7 - 7);  // newer ones than the headers name
  ask("Mac", 2, 2, MTL::GPUFamilyMac2 - 2);
  ask("Metal", 3, 4, MTL::GPUFamilyMetal3 - 3);
  return out.empty() ? "no family" : fmt::format("{}", fmt::join(out, ", "));
}

std::string why_not(MTL::Device& device) {
  if (device.supportsFamily(MTL::GPUFamilyApple7)) return "";
  const std::string name = fmt::format("{} ({})", text_of(device.name()), families(device));
  if (name.find("Paravirtual") != std::string::npos)
    return fmt::format("this is a virtual machine, whose {} has no simdgroup matrices", name);
  return fmt::format("the {} is older than the GPU family Apple7, which simdgroup matrices need", name);
}

// The first of all devices that will do. They are listed, since the one that
// MTLCreateSystemDefaultDevice gives is for programs with a window.
Found find_device() {
  const auto pool = scoped_pool();
  const NS::SharedPtr<NS::Array> devices = NS::TransferPtr(MTL::CopyAllDevices());
  Found out{{}, "Metal finds no device"};
  for (NS::UInteger i = 0; devices && i < devices->count(); ++i) {
    auto* const device = devices->object<MTL::Device>(i);
    out.why_not = why_not(*device);
    if (!out.why_not.empty()) continue;
    out.device = NS::RetainPtr(device);
    break;
  }
  return out;
}

class MetalDevice final : public Device {
 public:
  MetalDevice(NS::SharedPtr<MTL::Device> device, const MetalOptions& options)
      : device_(std::move(device)),
        library_(device_, options.library),
        memory_(std::make_shared<metal::MetalMemory>(device_, options.labels)),
        limits_(options.limits),
        labels_(options.labels),
        name_(text_of(device_->name())) {
    traits_.cores = metal::gpu_cores().value_or(traits_.cores);
    traits_.busy_threadgroups = kBusyPerCore * traits_.cores;
    traits_.threadgroup_bytes = static_cast<std::uint32_t>(device_->maxThreadgroupMemoryLength());
    traits_.largest_buffer = device_->maxBufferLength();
    queue_ = new_queue();
  }

  [[nodiscard]] std::string name() const override { return name_; }
  [[nodiscard]] std::string facts() const override {
    const auto pool = scoped_pool();
    return fmt::format("{}; {} cores; {} for the GPU, {} in one buffer, {} of threadgroup memory",
                       families(*device_.get()), traits_.cores, byte_text(device_->recommendedMaxWorkingSetSize()),
                       byte_text(traits_.largest_buffer), byte_text(traits_.threadgroup_bytes));
  }
  std::unique_ptr<Buffer> allocate(std::size_t bytes) override {
    return std::make_unique<metal::MetalBuffer>(memory_->allocate(bytes), bytes);
  }
  std::unique_ptr<Commands> commands() override { return std::make_unique<metal::MetalCommands>(queue_); }
  std::unique_ptr<Queue> make_queue() override {
    return std::make_unique<SharedMemoryQueue>(
        [queue = new_queue()] { return std::make_unique<metal::MetalCommands>(queue); });
  }
  // The GPU's memory is the system's, of which it may use a part.
  [[nodiscard]] std::size_t available_memory() const override {
    return std::min(memory_->available(), Device::available_memory());
  }
  [[nodiscard]] DeviceTraits traits() const override { return traits_; }

 protected:
  std::unique_ptr<Pipeline> make_pipeline(const EmbeddedShader& shader, std::size_t index,
                                          const FunctionConstants& constants) override {
    const auto pool = scoped_pool();
    return library_.make_pipeline(shader, index, constants);
  }

 private:
  static constexpr std::uint32_t kBusyPerCore = 4;  // threadgroups that keep a core busy

  [[nodiscard]] std::shared_ptr<metal::MetalQueue> new_queue() const {
    const auto pool = scoped_pool();
    auto out = std::make_shared<metal::MetalQueue>();
    out->queue = NS::TransferPtr(device_->newCommandQueue());
    out->fence = NS::TransferPtr(device_->newFence());
    if (!out->queue || !out->fence) throw Error(ErrorCode::kInternal, name_ + ": Metal makes no command queue");
    memory_->residency().attach(*out->queue.get());
    out->memory = memory_;
    out->limits = limits_;
    out->labels = labels_;
    out->threadgroup_bytes = traits_.threadgroup_bytes;
    return out;
  }

  NS::SharedPtr<MTL::Device> device_;
  metal::MetalLibrary library_;
  std::shared_ptr<metal::MetalMemory> memory_;
  metal::WorkLimits limits_;
  bool labels_;
  std::string name_;
  DeviceTraits traits_;
  std::shared_ptr<metal::MetalQueue> queue_;
};

}  // namespace

std::string why_no_metal() {
  return find_device().why_not;
}

std::unique_ptr<Device> make_metal_device(const MetalOptions& options) {
  const auto pool = scoped_pool();
  Found found = find_device();
  if (!found.device) throw Error(ErrorCode::kNotFound, "no Metal: " + found.why_not);
  return std::make_unique<MetalDevice>(std::move(found.device), options);
}

}  // namespace metal_marlin::msl
