#include <fmt/format.h>

#include <Metal/Metal.hpp>
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <span>

#include "backends/msl/device.h"
#include "rules.h"

using metal_marlin::msl::EmbeddedShader;
using metal_stub::Lock;
using metal_stub::Rule;

namespace metal_stub {
// Of the command buffers that have not been completed: the first that uses these bytes; empty: none does.
std::string in_flight(const MTL::Buffer& buffer, std::size_t begin, std::size_t end);
}  // namespace metal_stub

namespace {

void fail_with(NS::Error** error, const std::string& text) {
  *error = (new NS::Error(text, nullptr))->autorelease();
}

void need(int macos, const char* what) {
  if (metal_stub::machine().macos < macos) report(Rule::kAvailable, fmt::format("{} needs macOS {}", what, macos));
}

}  // namespace

namespace MTL {

Buffer::Buffer(Device& device, std::size_t length, ResourceOptions options)
    : Referencing("MTL::Buffer"),
      length_(length),
      tracked_((options & ResourceHazardTrackingModeUntracked) == 0),
      memory_(static_cast<std::byte*>(std::malloc(length))),
      device_(device) {
  device_.allocated_ += length_;
  ++metal_stub::counts().live_buffers;
  std::memset(memory_, 0xFF, length_);  // not a number of any type: nobody may count on zeros
}
Buffer::~Buffer() {
  std::free(memory_);
}
void Buffer::dealloc_() {
  device_.allocated_ -= length_;
  --metal_stub::counts().live_buffers;
  const std::string user = metal_stub::in_flight(*this, 0, length_);
  if (!user.empty()) report(Rule::kFreedInFlight, fmt::format("a buffer of {} bytes that {} uses", length_, user));
  if (residencies_ != 0) report(Rule::kResidency, "a buffer is let go that is in a residency set");
}
void* Buffer::contents() {
  const Lock lock(metal_stub::mutex());
  touch_("contents");
  return memory_;
}
void Buffer::addDebugMarker(const NS::String* marker, NS::Range range) {
  const Lock lock(metal_stub::mutex());
  touch_("addDebugMarker");
  marker->touch_("addDebugMarker");
  const std::size_t end = range.location + range.length;
  if (range.length == 0 || end > length_) return report(Rule::kMemory, "a marker beyond its buffer");
  const std::string user = metal_stub::in_flight(*this, range.location, end);
  if (!user.empty()) report(Rule::kFreedInFlight, fmt::format("memory given out again that {} uses", user));
  std::erase_if(pieces_, [&](const auto& piece) { return piece.first < end && piece.second > range.location; });
  pieces_[range.location] = end;
}
std::size_t Buffer::end_of_piece_(std::size_t offset) const {
  auto piece = pieces_.upper_bound(offset);
  if (piece == pieces_.begin()) return 0;
  --piece;
  return piece->second > offset ? piece->second : 0;
}

ResidencySetDescriptor* ResidencySetDescriptor::alloc() {
  need(15, "MTL::ResidencySetDescriptor");
  return new ResidencySetDescriptor;
}
ResidencySetDescriptor* ResidencySetDescriptor::init() {
  return this;
}
void ResidencySet::addAllocation(const Allocation* allocation) {
  const Lock lock(metal_stub::mutex());
  touch_("addAllocation");
  allocation->touch_("addAllocation");
  wanted_.insert(allocation);
}
void ResidencySet::removeAllocation(const Allocation* allocation) {
  const Lock lock(metal_stub::mutex());
  touch_("removeAllocation");
  wanted_.erase(allocation);
}
void ResidencySet::commit() {
  const Lock lock(metal_stub::mutex());
  touch_("commit");
  const auto count = [](const std::set<const Allocation*>& set, int by) {
    for (const Allocation* const allocation : set) {
      auto* const buffer = dynamic_cast<Buffer*>(const_cast<Allocation*>(allocation));
      if (buffer != nullptr) buffer->residencies_ += by;
    }
  };
  count(committed_, -1);
  // What comes later is to be asked for again.
  requested_ = requested_ && std::includes(committed_.begin(), committed_.end(), wanted_.begin(), wanted_.end());
  committed_ = wanted_;
  count(committed_, 1);
}
void ResidencySet::requestResidency() {
  const Lock lock(metal_stub::mutex());
  touch_("requestResidency");
  requested_ = true;
}

FunctionConstantValues* FunctionConstantValues::alloc() {
  return new FunctionConstantValues;
}
FunctionConstantValues* FunctionConstantValues::init() {
  return this;
}
void FunctionConstantValues::setConstantValue(const void* value, DataType type, NS::UInteger index) {
  const Lock lock(metal_stub::mutex());
  touch_("setConstantValue");
  const std::size_t size = type == DataTypeBool                                                      ? 1
                           : type == DataTypeHalf || type == DataTypeShort || type == DataTypeUShort ? 2
                                                                                                     : 4;
  const auto* const bytes = static_cast<const std::byte*>(value);
  values_[index].assign(bytes, bytes + size);
}
CompileOptions* CompileOptions::alloc() {
  return new CompileOptions;
}
CompileOptions* CompileOptions::init() {
  return this;
}
void CompileOptions::setLanguageVersion(LanguageVersion version) {
  version_ = version;
}
void CompileOptions::setFastMathEnabled(bool enabled) {
  fast_ = fast_functions_ = enabled;
}
void CompileOptions::setMathMode(MathMode mode) {
  need(15, "MTL::CompileOptions: setMathMode");
  fast_ = mode != MathModeSafe;
}
void CompileOptions::setMathFloatingPointFunctions(MathFloatingPointFunctions functions) {
  need(15, "MTL::CompileOptions: setMathFloatingPointFunctions");
  fast_functions_ = functions != MathFloatingPointFunctionsPrecise;
}

Function* Library::newFunction(const NS::String* name, const FunctionConstantValues* values, NS::Error** error) {
  const Lock lock(metal_stub::mutex());
  touch_("newFunction");
  Function* found = nullptr;
  for (const EmbeddedShader& shader : metal_marlin::msl::embedded_shaders()) {
    if (shader_ != nullptr && shader.name != shader_->name) continue;
    const MslLibrary& library = *shader.library;
    for (const MslKernel& kernel : std::span(library.kernels, library.kernel_count)) {
      if (kernel.name != name->text_) continue;
      if (found != nullptr)
        report(Rule::kCompile, fmt::format("two kernels of one library are called {}", kernel.name));
      found = new Function(library, kernel);
    }
  }
  if (found == nullptr) {
    fail_with(error, fmt::format("the library has no function {}", name->text_));
    return nullptr;
  }
  for (std::uint32_t i = 0; i < found->library_.constant_count; ++i) {
    const MslFunctionConstant& constant = found->library_.constants[i];
    const auto value = values->values_.find(constant.index);
    if (value == values->values_.end() || value->second.size() != constant.size) {
      report(Rule::kConstant, fmt::format("kernel {}: function constant {} ({}) has no value of {} bytes",
                                          found->kernel_.name, constant.index, constant.name, constant.size));
      continue;
    }
    std::memcpy(&found->constants_.value[i], value->second.data(), constant.size);
    found->constants_.defined[i] = 1;
  }
  return found;
}

NS::UInteger ComputePipelineState::maxTotalThreadsPerThreadgroup() const {
  touch_("maxTotalThreadsPerThreadgroup");
  const auto most = static_cast<NS::UInteger>(metal_stub::machine().most_threads);
  return kernel_.max_threads != 0 ? std::min<NS::UInteger>(kernel_.max_threads, most) : most;
}
NS::UInteger ComputePipelineState::staticThreadgroupMemoryLength() const {
  touch_("staticThreadgroupMemoryLength");
  const auto found = metal_stub::machine().static_bytes.find(kernel_.name);
  return found == metal_stub::machine().static_bytes.end() ? 0 : found->second;
}

NS::String* Device::name() const {
  touch_("name");
  return NS::String::string(name_.c_str(), NS::UTF8StringEncoding);
}
bool Device::supportsFamily(GPUFamily family) {
  touch_("supportsFamily");
  const auto number = static_cast<int>(family);
  return family == GPUFamilyMac2 || (apple7_ && (family == GPUFamilyMetal3 || (number > 1000 && number <= 1007)));
}
NS::UInteger Device::maxThreadgroupMemoryLength() const {
  return 32 << 10;
}
NS::UInteger Device::maxBufferLength() const {
  return metal_stub::machine().largest_buffer;
}
NS::UInteger Device::currentAllocatedSize() const {
  const Lock lock(metal_stub::mutex());
  return allocated_;
}
std::uint64_t Device::recommendedMaxWorkingSetSize() const {
  return metal_stub::machine().working_set;
}

Buffer* Device::newBuffer(NS::UInteger length, ResourceOptions options) {
  const Lock lock(metal_stub::mutex());
  touch_("newBuffer");
  const metal_stub::Machine& machine = metal_stub::machine();
  if (length == 0 || length > machine.largest_buffer || length > machine.working_set - allocated_) {
    report(Rule::kMemory, fmt::format("a buffer of {} bytes, {} allocated", length, allocated_));
    return nullptr;
  }
  return new Buffer(*this, length, options);
}
CommandQueue* Device::newCommandQueue() {
  touch_("newCommandQueue");
  return new CommandQueue;
}
Fence* Device::newFence() {
  touch_("newFence");
  return new Fence;
}
ResidencySet* Device::newResidencySet(const ResidencySetDescriptor* descriptor, NS::Error**) {
  need(15, "MTL::ResidencySet");
  touch_("newResidencySet");
  descriptor->touch_("newResidencySet");
  return new ResidencySet;
}
// A file that begins with MTLB stands for the library of all shaders.
Library* Device::newLibrary(const NS::String* path, NS::Error** error) {
  touch_("newLibrary");
  std::string head(4, '\0');
  std::ifstream(path->text_, std::ios::binary).read(head.data(), 4);
  if (head == "MTLB") return new Library(nullptr);
  fail_with(error, "Invalid library file");
  return nullptr;
}
Library* Device::newLibrary(const NS::String* source, const CompileOptions* options, NS::Error** error) {
  touch_("newLibrary");
  if (options->fast_ || options->fast_functions_ || options->version_ != LanguageVersion3_1)
    report(Rule::kCompile, "a shader with fast math, or of another version than MSL 3.1");
  for (const EmbeddedShader& shader : metal_marlin::msl::embedded_shaders()) {
    if (source_of(shader) == source->text_) return new Library(&shader);
  }
  fail_with(error, "program_source:1:1: error: not one of the shaders");
  return nullptr;
}
ComputePipelineState* Device::newComputePipelineState(const Function* function, NS::Error**) {
  touch_("newComputePipelineState");
  function->touch_("newComputePipelineState");
  return new ComputePipelineState(*function);
}

NS::Array* CopyAllDevices() {
  const Lock lock(metal_stub::mutex());
  std::vector<NS::Object*> devices;
  for (const metal_stub::Machine::Gpu& gpu : metal_stub::machine().gpus)
    devices.push_back(new Device(gpu.name, gpu.apple7));
  auto* const out = new NS::Array(devices);
  for (NS::Object* const device : devices) device->release();  // the array's alone
  return out;
}

}  // namespace MTL
