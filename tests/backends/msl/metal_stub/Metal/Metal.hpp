// A stand-in for metal-cpp's Metal: of its names and signatures those that the Metal device uses. What
// it is told is recorded, held to the rules of rules.h, and run on the host executor when a command
// buffer is waited for. Members that end in _ are the stand-in's own.
#pragma once

#include <Foundation/Foundation.hpp>
#include <array>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "msl_abi.h"

namespace metal_marlin::msl {
struct EmbeddedShader;
}

namespace metal_stub {
struct Pass;
struct Dispatch;
}  // namespace metal_stub

namespace MTL {

using ResourceOptions = NS::UInteger;
enum : ResourceOptions { ResourceStorageModeShared = 0, ResourceHazardTrackingModeUntracked = 1 << 8 };
using BarrierScope = NS::UInteger;
enum : BarrierScope { BarrierScopeBuffers = 1 };
using CommandBufferErrorOption = NS::UInteger;
enum : CommandBufferErrorOption { CommandBufferErrorOptionEncoderExecutionStatus = 1 };
enum GPUFamily : NS::Integer { GPUFamilyApple7 = 1007, GPUFamilyMac2 = 2002, GPUFamilyMetal3 = 5001 };
enum CommandBufferStatus : NS::UInteger {
  CommandBufferStatusNotEnqueued = 0,
  CommandBufferStatusCommitted = 2,
  CommandBufferStatusCompleted = 4,
  CommandBufferStatusError = 5
};
enum CommandEncoderErrorState : NS::Integer {
  CommandEncoderErrorStateUnknown = 0,
  CommandEncoderErrorStateFaulted = 4
};
enum DispatchType : NS::UInteger { DispatchTypeSerial = 0, DispatchTypeConcurrent = 1 };
enum LanguageVersion : NS::UInteger { LanguageVersion3_1 = (3 << 16) + 1 };
enum MathMode : NS::Integer { MathModeSafe = 0, MathModeFast = 2 };
enum MathFloatingPointFunctions : NS::Integer {
  MathFloatingPointFunctionsFast = 0,
  MathFloatingPointFunctionsPrecise = 1
};
enum DataType : NS::UInteger {
  DataTypeFloat = 3,
  DataTypeHalf = 16,
  DataTypeInt = 29,
  DataTypeUInt = 33,
  DataTypeShort = 37,
  DataTypeUShort = 41,
  DataTypeBool = 53
};
struct Size {
  static Size Make(NS::UInteger width, NS::UInteger height, NS::UInteger depth) { return {width, height, depth}; }
  NS::UInteger width, height, depth;
};

class Device;

class Allocation : public NS::Referencing<Allocation> {
 protected:
  using Referencing::Referencing;
};
class Resource : public NS::Referencing<Resource, Allocation> {
 protected:
  using Referencing::Referencing;
};

class Buffer : public NS::Referencing<Buffer, Resource> {
 public:
  void* contents();
  void addDebugMarker(const NS::String* marker, NS::Range range);
  Buffer(Device& device, std::size_t length, ResourceOptions options);
  ~Buffer() override;
  // Where the piece that `offset` lies in ends: pieces are what the device marks. 0: in none.
  [[nodiscard]] std::size_t end_of_piece_(std::size_t offset) const;
  const std::size_t length_;
  const bool tracked_;
  std::byte* const memory_;
  int residencies_ = 0;  // sets that it is in

 private:
  void dealloc_() override;
  std::map<std::size_t, std::size_t> pieces_;  // begin to end
  Device& device_;
};

class ResidencySetDescriptor : public NS::Referencing<ResidencySetDescriptor> {
 public:
  static ResidencySetDescriptor* alloc();
  ResidencySetDescriptor* init();

 private:
  ResidencySetDescriptor() : Referencing("MTL::ResidencySetDescriptor") {}
};
class ResidencySet : public NS::Referencing<ResidencySet> {
 public:
  void addAllocation(const Allocation* allocation);
  void removeAllocation(const Allocation* allocation);
  void commit();
  void requestResidency();
  ResidencySet() : Referencing("MTL::ResidencySet") {}
  [[nodiscard]] bool holds_(const Allocation* allocation) const { return committed_.contains(allocation); }
  bool requested_ = false;

 private:
  std::set<const Allocation*> wanted_;
  std::set<const Allocation*> committed_;
};

class FunctionConstantValues : public NS::Referencing<FunctionConstantValues> {
 public:
  static FunctionConstantValues* alloc();
  FunctionConstantValues* init();
  void setConstantValue(const void* value, DataType type, NS::UInteger index);
  std::map<NS::UInteger, std::vector<std::byte>> values_;

 private:
  FunctionConstantValues() : Referencing("MTL::FunctionConstantValues") {}
};
class CompileOptions : public NS::Referencing<CompileOptions> {
 public:
  static CompileOptions* alloc();
  CompileOptions* init();
  void setLanguageVersion(LanguageVersion version);
  void setFastMathEnabled(bool enabled);
  void setMathMode(MathMode mode);
  void setMathFloatingPointFunctions(MathFloatingPointFunctions functions);
  NS::UInteger version_ = 0;
  bool fast_ = true;
  bool fast_functions_ = true;

 private:
  CompileOptions() : Referencing("MTL::CompileOptions") {}
};
class Function : public NS::Referencing<Function> {
 public:
  Function(const MslLibrary& library, const MslKernel& kernel)
      : Referencing("MTL::Function"), library_(library), kernel_(kernel) {}
  const MslLibrary& library_;
  const MslKernel& kernel_;
  MslConstantValues constants_{};
};
class Library : public NS::Referencing<Library> {
 public:
  Function* newFunction(const NS::String* name, const FunctionConstantValues* values, NS::Error** error);
  // `shader`: its one, or null for all.
  explicit Library(const metal_marlin::msl::EmbeddedShader* shader) : Referencing("MTL::Library"), shader_(shader) {}

 private:
  const metal_marlin::msl::EmbeddedShader* shader_;
};
class ComputePipelineState : public NS::Referencing<ComputePipelineState, Allocation> {
 public:
  [[nodiscard]] NS::UInteger maxTotalThreadsPerThreadgroup() const;
  [[nodiscard]] NS::UInteger staticThreadgroupMemoryLength() const;
  explicit ComputePipelineState(const Function& function)
      : Referencing("MTL::ComputePipelineState"),
        library_(function.library_),
        kernel_(function.kernel_),
        constants_(function.constants_) {}
  const MslLibrary& library_;
  const MslKernel& kernel_;
  const MslConstantValues constants_;
};

class Fence : public NS::Referencing<Fence> {
 public:
  Fence() : Referencing("MTL::Fence") {}
  int updated_by_ = 0;  // the committed pass that did last; 0: none
};

class CommandBuffer;
class CommandEncoder : public NS::Referencing<CommandEncoder> {
 public:
  void endEncoding();
  void insertDebugSignpost(const NS::String* string);
  void setLabel(const NS::String* label);

 protected:
  CommandEncoder(const char* type, CommandBuffer& buffer, metal_stub::Pass& pass)
      : Referencing(type), buffer_(buffer), pass_(pass) {}
  void dealloc_() override;
  // Whether more may be encoded.
  bool encoding(const char* method) const;
  CommandBuffer& buffer_;
  metal_stub::Pass& pass_;
  bool ended_ = false;
};
class ComputeCommandEncoder : public NS::Referencing<ComputeCommandEncoder, CommandEncoder> {
 public:
  void setComputePipelineState(const ComputePipelineState* state);
  void setBuffer(const Buffer* buffer, NS::UInteger offset, NS::UInteger index);
  void setBytes(const void* bytes, NS::UInteger length, NS::UInteger index);
  void setThreadgroupMemoryLength(NS::UInteger length, NS::UInteger index);
  void memoryBarrier(BarrierScope scope);
  void waitForFence(const Fence* fence);
  void updateFence(const Fence* fence);
  void dispatchThreads(Size threads, Size group);
  ComputeCommandEncoder(CommandBuffer& buffer, metal_stub::Pass& pass);
  ~ComputeCommandEncoder() override;

 private:
  std::unique_ptr<metal_stub::Dispatch> next_;  // as it is bound so far
};

class CommandBufferEncoderInfo : public NS::Referencing<CommandBufferEncoderInfo> {
 public:
  [[nodiscard]] NS::String* label() const;
  [[nodiscard]] CommandEncoderErrorState errorState() const;
  explicit CommandBufferEncoderInfo(std::string label)
      : Referencing("MTL::CommandBufferEncoderInfo"), label_(std::move(label)) {}

 private:
  std::string label_;
};
extern const NS::ErrorUserInfoKey CommandBufferEncoderInfoErrorKey;

class CommandBufferDescriptor : public NS::Referencing<CommandBufferDescriptor> {
 public:
  static CommandBufferDescriptor* alloc();
  CommandBufferDescriptor* init();
  void setRetainedReferences(bool retained);
  void setErrorOptions(CommandBufferErrorOption options);
  bool retained_ = true;
  bool tells_encoders_ = false;

 private:
  CommandBufferDescriptor() : Referencing("MTL::CommandBufferDescriptor") {}
};
class CommandQueue;
class CommandBuffer : public NS::Referencing<CommandBuffer> {
 public:
  ComputeCommandEncoder* computeCommandEncoder(DispatchType type);
  void commit();
  void waitUntilCompleted();
  [[nodiscard]] CommandBufferStatus status() const;
  [[nodiscard]] NS::Error* error() const;
  [[nodiscard]] double GPUStartTime() const;
  [[nodiscard]] double GPUEndTime() const;
  CommandBuffer(CommandQueue& queue, const CommandBufferDescriptor& descriptor);
  ~CommandBuffer() override;
  void execute_();
  [[nodiscard]] bool uses_(const Buffer& buffer, std::size_t begin, std::size_t end) const;
  CommandQueue& queue_;
  std::vector<std::unique_ptr<metal_stub::Pass>> passes_;
  CommandBufferStatus status_ = CommandBufferStatusNotEnqueued;
  bool open_ = false;  // an encoder

 private:
  void dealloc_() override;
  bool tells_encoders_;
  std::string error_;
  double begin_ = 0;
  double end_ = 0;
};

class CommandQueue : public NS::Referencing<CommandQueue> {
 public:
  CommandBuffer* commandBuffer(const CommandBufferDescriptor* descriptor);
  void addResidencySet(const ResidencySet* set);
  CommandQueue() : Referencing("MTL::CommandQueue") {}
  [[nodiscard]] bool resident_(const Buffer* buffer) const;

 private:
  void dealloc_() override;
  std::vector<const ResidencySet*> sets_;
};

class Device : public NS::Referencing<Device> {
 public:
  [[nodiscard]] NS::String* name() const;
  bool supportsFamily(GPUFamily family);
  [[nodiscard]] NS::UInteger maxThreadgroupMemoryLength() const;
  [[nodiscard]] NS::UInteger maxBufferLength() const;
  [[nodiscard]] NS::UInteger currentAllocatedSize() const;
  [[nodiscard]] std::uint64_t recommendedMaxWorkingSetSize() const;
  Buffer* newBuffer(NS::UInteger length, ResourceOptions options);
  CommandQueue* newCommandQueue();
  Fence* newFence();
  ResidencySet* newResidencySet(const ResidencySetDescriptor* descriptor, NS::Error** error);
  Library* newLibrary(const NS::String* path, NS::Error** error);
  Library* newLibrary(const NS::String* source, const CompileOptions* options, NS::Error** error);
  ComputePipelineState* newComputePipelineState(const Function* function, NS::Error** error);
  Device(std::string name, bool apple7) : Referencing("MTL::Device"), name_(std::move(name)), apple7_(apple7) {}
  std::size_t allocated_ = 0;

 private:
  std::string name_;
  bool apple7_;
};
NS::Array* CopyAllDevices();

}  // namespace MTL
