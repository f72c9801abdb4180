// Declarations of what src/backends/msl/metal uses of metal-cpp, to compile it where there is
// neither macOS nor that library. Names and signatures are the library's.
#pragma once

#include <cstddef>
#include <cstdint>

namespace NS {
using UInteger = std::uintptr_t;
enum StringEncoding : UInteger { UTF8StringEncoding = 4 };

template <typename T>
class SharedPtr {
 public:
  SharedPtr();
  SharedPtr(const SharedPtr&);
  SharedPtr(SharedPtr&&) noexcept;
  SharedPtr& operator=(const SharedPtr&);
  SharedPtr& operator=(SharedPtr&&) noexcept;
  ~SharedPtr();
  T* get() const;
  T* operator->() const;
  explicit operator bool() const;
};
template <typename T>
SharedPtr<T> TransferPtr(T* p);
template <typename T>
SharedPtr<T> RetainPtr(T* p);

class String {
 public:
  static String* string(const char* text, StringEncoding encoding);
  const char* utf8String() const;
};
class Error {
 public:
  String* localizedDescription() const;
};
class AutoreleasePool {
 public:
  static AutoreleasePool* alloc();
  AutoreleasePool* init();
};
}  // namespace NS

namespace MTL {
enum ResourceOptions : NS::UInteger { ResourceStorageModeShared = 0 };
enum GPUFamily : std::intptr_t { GPUFamilyApple7 = 1007 };
enum CommandBufferStatus : NS::UInteger { CommandBufferStatusError = 5 };
enum LanguageVersion : NS::UInteger { LanguageVersion3_1 = (3 << 16) + 1 };
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
  static Size Make(NS::UInteger width, NS::UInteger height, NS::UInteger depth);
  NS::UInteger width, height, depth;
};
class Buffer {
 public:
  void* contents();
};
class Function;
class FunctionConstantValues {
 public:
  static FunctionConstantValues* alloc();
  FunctionConstantValues* init();
  void setConstantValue(const void* value, DataType type, NS::UInteger index);
};
class CompileOptions {
 public:
  static CompileOptions* alloc();
  CompileOptions* init();
  void setLanguageVersion(LanguageVersion version);
  void setFastMathEnabled(bool enabled);
};
class Library {
 public:
  Function* newFunction(const NS::String* name, const FunctionConstantValues* values, NS::Error** error);
};
class ComputePipelineState {
 public:
  NS::UInteger maxTotalThreadsPerThreadgroup() const;
  NS::UInteger staticThreadgroupMemoryLength() const;
};
class ComputeCommandEncoder {
 public:
  void setComputePipelineState(const ComputePipelineState* state);
  void setBuffer(const Buffer* buffer, NS::UInteger offset, NS::UInteger index);
  void setBytes(const void* bytes, NS::UInteger length, NS::UInteger index);
  void setThreadgroupMemoryLength(NS::UInteger length, NS::UInteger index);
  void dispatchThreads(Size threads, Size group);
  void endEncoding();
};
class CommandBuffer {
 public:
  ComputeCommandEncoder* computeCommandEncoder();
  void commit();
  void waitUntilCompleted();
  CommandBufferStatus status() const;
  NS::Error* error() const;
  double GPUStartTime() const;
  double GPUEndTime() const;
};
class CommandQueue {
 public:
  CommandBuffer* commandBuffer();
};
class Device {
 public:
  NS::String* name() const;
  bool supportsFamily(GPUFamily family);
  NS::UInteger maxThreadgroupMemoryLength() const;
  Buffer* newBuffer(NS::UInteger length, ResourceOptions options);
  CommandQueue* newCommandQueue();
  Library* newLibrary(const NS::String* path, NS::Error** error);
  Library* newLibrary(const NS::String* source, const CompileOptions* options, NS::Error** error);
  ComputePipelineState* newComputePipelineState(const Function* function, NS::Error** error);
};
Device* CreateSystemDefaultDevice();
}  // namespace MTL
