// The stand-in for Metal itself: what a faulty device would do is found, by the rule it breaks.
#include "rules.h"

#include <gtest/gtest.h>

#include <Metal/Metal.hpp>
#include <array>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "backends/msl/device.h"

namespace metal_marlin::msl {
namespace {

using metal_stub::Expected;
using metal_stub::machine;

// Whether one of the violations has this in it.
testing::AssertionResult tells(const std::vector<std::string>& found, const std::string& what) {
  std::string all;
  for (const std::string& each : found) {
    if (each.find(what) != std::string::npos) return testing::AssertionSuccess();
    all += "\n  " + each;
  }
  return testing::AssertionFailure() << "no \"" << what << "\" in:" << all;
}

NS::String* text(std::string_view t) {
  return NS::String::string(std::string(t).c_str(), NS::UTF8StringEncoding);
}

// What a device does, in small; every test departs from it in one place.
class MetalRules : public testing::Test {
 protected:
  static constexpr std::uint64_t kCount = 256;
  static constexpr std::size_t kBytes = kCount * sizeof(float);

  MetalRules() {
    const auto devices = NS::TransferPtr(MTL::CopyAllDevices());
    device = NS::RetainPtr(devices->object<MTL::Device>(0));
    queue = NS::TransferPtr(device->newCommandQueue());
    NS::Error* error = nullptr;
    const auto descriptor = NS::TransferPtr(MTL::ResidencySetDescriptor::alloc()->init());
    set = NS::TransferPtr(device->newResidencySet(descriptor.get(), &error));
    set->requestResidency();
    queue->addResidencySet(set.get());
    add = pipeline("gemm_epilogue", "residual_float");
    for (auto& buffer : buffers) buffer = new_buffer();
  }
  ~MetalRules() override {
    for (auto& buffer : buffers) {
      if (buffer) set->removeAllocation(buffer.get());
    }
    set->commit();
  }

  NS::SharedPtr<MTL::ComputePipelineState> pipeline(const char* shader, const char* kernel) {
    const auto options = NS::TransferPtr(MTL::CompileOptions::alloc()->init());
    options->setLanguageVersion(MTL::LanguageVersion3_1);
    options->setMathMode(MTL::MathModeSafe);
    options->setMathFloatingPointFunctions(MTL::MathFloatingPointFunctionsPrecise);
    NS::Error* error = nullptr;
    const auto library =
        NS::TransferPtr(device->newLibrary(text(source_of(find_shader(shader))), options.get(), &error));
    const auto values = NS::TransferPtr(MTL::FunctionConstantValues::alloc()->init());
    const auto function = NS::TransferPtr(library->newFunction(text(kernel), values.get(), &error));
    return NS::TransferPtr(device->newComputePipelineState(function.get(), &error));
  }
  NS::SharedPtr<MTL::Buffer> new_buffer() {
    auto buffer = NS::TransferPtr(
        device->newBuffer(kBytes, MTL::ResourceStorageModeShared | MTL::ResourceHazardTrackingModeUntracked));
    buffer->addDebugMarker(text("floats"), NS::Range::Make(0, kBytes));
    auto* const values = static_cast<float*>(buffer->contents());
    std::iota(values, values + kCount, 1.0F);
    set->addAllocation(buffer.get());
    set->commit();
    set->requestResidency();
    return buffer;
  }
  MTL::CommandBuffer* new_command_buffer() {
    const auto descriptor = NS::TransferPtr(MTL::CommandBufferDescriptor::alloc()->init());
    descriptor->setRetainedReferences(false);
    return queue->commandBuffer(descriptor.get());
  }
  // buffers[to] += buffers[from], the latter from an offset on
  void put(MTL::ComputeCommandEncoder& encoder, std::size_t to, std::size_t from, std::size_t offset = 0) {
    encoder.setComputePipelineState(add.get());
    encoder.setBuffer(buffers[to].get(), 0, 0);
    encoder.setBuffer(buffers[from].get(), offset, 1);
    encoder.setBytes(&kCount, sizeof(kCount), 2);
    encoder.dispatchThreads(MTL::Size::Make(kCount, 1, 1), MTL::Size::Make(128, 1, 1));
  }
  // Encodes, runs, and tells which rules that broke.
  template <typename Encode>
  std::vector<std::string> run(const Encode& encode) {
    const Expected expected;
    MTL::CommandBuffer* const buffer = new_command_buffer();
    MTL::ComputeCommandEncoder* const encoder = buffer->computeCommandEncoder(MTL::DispatchTypeConcurrent);
    encode(*encoder);
    encoder->endEncoding();
    buffer->commit();
    buffer->waitUntilCompleted();
    return expected.found();
  }
  float first(std::size_t i) { return *static_cast<float*>(buffers[i]->contents()); }

  NS::SharedPtr<NS::AutoreleasePool> pool = NS::TransferPtr(NS::AutoreleasePool::alloc()->init());
  NS::SharedPtr<MTL::Device> device;
  NS::SharedPtr<MTL::CommandQueue> queue;
  NS::SharedPtr<MTL::ResidencySet> set;
  NS::SharedPtr<MTL::ComputePipelineState> add;
  std::array<NS::SharedPtr<MTL::Buffer>, 3> buffers;
};

TEST_F(MetalRules, TakeWhatIsRight) {
  EXPECT_TRUE(run([&](auto& encoder) {
                put(encoder, 0, 1);
                encoder.memoryBarrier(MTL::BarrierScopeBuffers);
                put(encoder, 2, 0);
              }).empty());
  EXPECT_EQ(first(2), 3);
}

// The first planted fault of six: the others are UseAfterRelease, ThreadgroupMemory, Offsets,
// EncodersLeftOpen and BuffersFreedInFlight.
TEST_F(MetalRules, MissingBarriers) {
  const auto pairs = [&](std::size_t a, std::size_t b, std::size_t c, std::size_t d) {
    return run([&](auto& encoder) {
      put(encoder, a, b);
      put(encoder, c, d);
    });
  };
  EXPECT_TRUE(tells(pairs(0, 1, 2, 0),
                    "barrier: no barrier between dispatches, RAW: kernel residual_float, "
                    "buffer 0, and kernel residual_float, buffer 1"));
  EXPECT_TRUE(tells(pairs(0, 1, 1, 2), "barrier: no barrier between dispatches, WAR"));
  EXPECT_TRUE(tells(pairs(0, 1, 0, 2), "barrier: no barrier between dispatches, WAW"));
  EXPECT_TRUE(pairs(0, 2, 1, 2).empty());
}

TEST_F(MetalRules, MissingBarriersGiveWrongNumbersToo) {
  run([&](auto& encoder) {
    put(encoder, 0, 1);  // 1 + 1, run last
    put(encoder, 2, 0);  // 1 + 1, not 1 + 2
  });
  EXPECT_EQ(first(2), 2);
}

TEST_F(MetalRules, MissingFences) {
  for (const bool fenced : {false, true}) {
    const Expected expected;
    const auto fence = NS::TransferPtr(device->newFence());
    std::vector<MTL::CommandBuffer*> work;
    for (std::size_t i = 0; i < 2; ++i) {
      work.push_back(new_command_buffer());
      MTL::ComputeCommandEncoder* const encoder = work.back()->computeCommandEncoder(MTL::DispatchTypeConcurrent);
      if (fenced && i == 1) encoder->waitForFence(fence.get());
      put(*encoder, i == 0 ? 0 : 2, i == 0 ? 1 : 0);
      encoder->updateFence(fence.get());
      encoder->endEncoding();
      work.back()->commit();
    }
    work.back()->waitUntilCompleted();
    if (fenced) {
      EXPECT_TRUE(expected.found().empty());
    } else {
      EXPECT_TRUE(tells(expected.found(), "fence: no fence between command buffers, RAW"));
    }
  }
  const auto never = NS::TransferPtr(device->newFence());
  EXPECT_TRUE(
      tells(run([&](auto& encoder) { encoder.waitForFence(never.get()); }), "fence that none before it updates"));
}

TEST_F(MetalRules, UseAfterRelease) {
  const Expected expected;
  MTL::Buffer* const gone = buffers[1].get();
  set->removeAllocation(gone);
  set->commit();
  buffers[1].reset();
  gone->contents();
  EXPECT_TRUE(tells(expected.found(), "use after release: MTL::Buffer: contents"));
  gone->release();
  EXPECT_TRUE(tells(expected.found(), "released too often: MTL::Buffer"));
}

TEST_F(MetalRules, ThreadgroupMemory) {
  EXPECT_TRUE(tells(run([&](auto& encoder) {
                      encoder.setComputePipelineState(add.get());
                      encoder.setThreadgroupMemoryLength(33 << 10, 0);
                      encoder.dispatchThreads(MTL::Size::Make(32, 1, 1), MTL::Size::Make(32, 1, 1));
                    }),
                    "threadgroup memory: kernel residual_float: 33792 bytes, Metal has 32768"));
  EXPECT_TRUE(tells(run([&](auto& encoder) { encoder.setThreadgroupMemoryLength(20, 0); }),
                    "threadgroup memory: 20 bytes at 0, no multiple of 16"));
}

TEST_F(MetalRules, Offsets) {
  EXPECT_TRUE(tells(run([&](auto& encoder) { put(encoder, 0, 1, 2); }),
                    "offset's alignment: kernel residual_float, buffer 1 (y): offset 2 is no multiple of 4"));
  EXPECT_TRUE(tells(run([&](auto& encoder) { put(encoder, 0, 1, kBytes); }),
                    "argument: kernel residual_float, buffer 1 (y): offset 1024 lies in no piece"));
}

TEST_F(MetalRules, EncodersLeftOpen) {
  const Expected expected;
  MTL::CommandBuffer* const buffer = new_command_buffer();
  try {
    put(*buffer->computeCommandEncoder(MTL::DispatchTypeConcurrent), 0, 1);
    throw std::runtime_error("while encoding");
  } catch (const std::runtime_error&) {
  }
  buffer->computeCommandEncoder(MTL::DispatchTypeConcurrent);
  EXPECT_TRUE(tells(expected.found(), "encoder's life: a second encoder while one is open"));
  buffer->commit();
  EXPECT_TRUE(tells(expected.found(), "encoder's life: committed with an open encoder"));
  buffer->waitUntilCompleted();
  pool = nullptr;
  EXPECT_TRUE(tells(expected.found(), "encoder's life: an encoder is let go open"));
  pool = NS::TransferPtr(NS::AutoreleasePool::alloc()->init());
}

TEST_F(MetalRules, EncodersAndCommandBuffersEndOnce) {
  const Expected expected;
  MTL::CommandBuffer* const buffer = new_command_buffer();
  MTL::ComputeCommandEncoder* const encoder = buffer->computeCommandEncoder(MTL::DispatchTypeConcurrent);
  encoder->endEncoding();
  put(*encoder, 0, 1);
  EXPECT_TRUE(tells(expected.found(), "encoder's life: setBuffer after endEncoding"));
  buffer->waitUntilCompleted();
  EXPECT_TRUE(tells(expected.found(), "command buffer's life: waited for before commit"));
  buffer->commit();
  buffer->commit();
  EXPECT_TRUE(tells(expected.found(), "command buffer's life: committed twice"));
  buffer->computeCommandEncoder(MTL::DispatchTypeConcurrent)->endEncoding();
  EXPECT_TRUE(tells(expected.found(), "command buffer's life: an encoder after commit"));
  buffer->waitUntilCompleted();
}

TEST_F(MetalRules, BuffersFreedInFlight) {
  const Expected expected;
  MTL::CommandBuffer* const buffer = new_command_buffer();
  MTL::ComputeCommandEncoder* const encoder = buffer->computeCommandEncoder(MTL::DispatchTypeConcurrent);
  put(*encoder, 0, 1);
  encoder->endEncoding();
  buffer->commit();
  buffers[0]->addDebugMarker(text("another"), NS::Range::Make(0, 16));
  EXPECT_TRUE(
      tells(expected.found(), "freed in flight: memory given out again that kernel residual_float, buffer 0 uses"));
  set->removeAllocation(buffers[1].get());
  set->commit();
  buffers[1].reset();
  EXPECT_TRUE(
      tells(expected.found(), "freed in flight: a buffer of 1024 bytes that kernel residual_float, buffer 1 uses"));
  buffer->waitUntilCompleted();
}

TEST_F(MetalRules, Residency) {
  set->removeAllocation(buffers[1].get());
  set->commit();
  EXPECT_TRUE(tells(run([&](auto& encoder) { put(encoder, 0, 1); }),
                    "residency: kernel residual_float, buffer 1 is in no residency set of the queue"));
  const Expected expected;
  buffers[2].reset();
  EXPECT_TRUE(tells(expected.found(), "residency: a buffer is let go that is in a residency set"));
}

TEST_F(MetalRules, Arguments) {
  EXPECT_TRUE(tells(run([&](auto& encoder) {
                      encoder.setComputePipelineState(add.get());
                      encoder.setBuffer(buffers[0].get(), 0, 0);
                      encoder.setBytes(&kCount, sizeof(kCount), 2);
                      encoder.dispatchThreads(MTL::Size::Make(kCount, 1, 1), MTL::Size::Make(128, 1, 1));
                    }),
                    "argument: kernel residual_float, buffer 1 (y) is missing"));
  const std::vector<std::byte> many(5000);
  EXPECT_TRUE(tells(run([&](auto& encoder) { encoder.setBytes(many.data(), many.size(), 1); }),
                    "bytes by value: setBytes of 5000 bytes at 1"));
  EXPECT_TRUE(tells(run([&](auto& encoder) { encoder.setBuffer(buffers[0].get(), 0, 31); }),
                    "buffer index beyond 30: setBuffer at 31"));
  machine().most_threads = 64;
  EXPECT_TRUE(tells(run([&](auto& encoder) { put(encoder, 0, 1); }),
                    "threads of a threadgroup: kernel residual_float: 128 in a threadgroup, at most 64"));
}

TEST_F(MetalRules, FunctionConstants) {
  const Expected expected;
  pipeline("marlin_gemm", "tile_map");
  EXPECT_TRUE(tells(expected.found(), "function constant: kernel tile_map: function constant 0"));
}

TEST_F(MetalRules, WorkOfACommandBuffer) {
  machine().most_work = 3 * kBytes;
  EXPECT_TRUE(run([&](auto& encoder) { put(encoder, 0, 1); }).empty());
  EXPECT_TRUE(tells(run([&](auto& encoder) {
                      put(encoder, 0, 1);
                      put(encoder, 2, 1);
                    }),
                    "work of a command buffer: a command buffer of 2 dispatches over 4096 bytes, at most 3072"));
}

TEST_F(MetalRules, PoolsAndLeaks) {
  const Expected expected;
  pool = nullptr;
  NS::String* const left = text("left to nobody");
  EXPECT_TRUE(tells(expected.found(), "autorelease pool: NS::String is left to a pool, and the thread has none"));
  left->release();
  pool = NS::TransferPtr(NS::AutoreleasePool::alloc()->init());
  MTL::Fence* const fence = device->newFence();
  EXPECT_EQ(metal_stub::live_objects().at("MTL::Fence"), 1);  // reported where a test ends so
  fence->release();
  EXPECT_EQ(metal_stub::live_objects().count("MTL::Fence"), 0U);
}

TEST_F(MetalRules, VersionsOfMacos) {
  const Expected expected;
  machine().macos = 14;
  NS::TransferPtr(MTL::ResidencySetDescriptor::alloc()->init());
  EXPECT_TRUE(tells(expected.found(), "availability: MTL::ResidencySetDescriptor needs macOS 15"));
}

}  // namespace
}  // namespace metal_marlin::msl
