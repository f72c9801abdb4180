#include "backends/msl/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "backends/msl/matrix_unit.h"
#include "base/memory.h"
#include "base/packed_text.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

constexpr std::uint32_t kMaxThreads = 1024;

[[noreturn]] void refuse(const MslKernel& kernel, const std::string& what) {
  throw Error(ErrorCode::kInvalidArgument, fmt::format("kernel {}: {}", kernel.name, what));
}

void check_buffer(const MslKernel& kernel, const MslArgument& argument, const Arguments& arguments) {
  const auto found = arguments.buffers().find(argument.index);
  const std::string what = fmt::format("argument {} ({}, buffer {})", argument.name, argument.type, argument.index);
  if (found == arguments.buffers().end()) {
    if (argument.optional != 0) return;
    refuse(kernel, what + " is missing");
  }
  if (const auto* const bytes = std::get_if<BytesArgument>(&found->second)) {
    if (argument.read_only == 0) refuse(kernel, what + " is written, expected a buffer, found bytes");
    if (argument.by_value != 0 ? bytes->size() != argument.size : bytes->size() < argument.size)
      refuse(kernel, fmt::format("{}: expected {} bytes, found {}", what, argument.size, bytes->size()));
    return;
  }
  const auto& buffer = std::get<BufferArgument>(found->second);
  if (argument.by_value != 0) refuse(kernel, what + " is a constant reference, expected bytes, found a buffer");
  if (buffer.offset > buffer.buffer->size() || buffer.buffer->size() - buffer.offset < argument.size) {
    refuse(kernel, fmt::format("{}: expected at least {} bytes, found {} at offset {}", what, argument.size,
                               buffer.buffer->size(), buffer.offset));
  }
  if (buffer.offset % argument.alignment != 0)
    refuse(kernel, fmt::format("{}: offset {} is no multiple of {}", what, buffer.offset, argument.alignment));
}

void check_arguments(const MslKernel& kernel, const Arguments& arguments) {
  const std::span<const MslArgument> known(kernel.arguments, kernel.argument_count);
  for (const MslArgument& argument : known) {
    if (argument.kind == kMslBuffer) check_buffer(kernel, argument, arguments);
    if (argument.kind == kMslThreadgroup && !arguments.threadgroups().contains(argument.index)) {
      refuse(kernel, fmt::format("argument {} (threadgroup {}): its size is missing", argument.name, argument.index));
    }
  }
  const auto has = [&](MslArgumentKind kind, std::uint32_t index) {
    return std::any_of(known.begin(), known.end(),
                       [&](const MslArgument& a) { return a.kind == kind && a.index == index; });
  };
  for (const auto& [index, value] : arguments.buffers()) {
    if (!has(kMslBuffer, index)) refuse(kernel, fmt::format("has no buffer {}", index));
  }
  for (const auto& [index, value] : arguments.threadgroups()) {
    if (!has(kMslThreadgroup, index)) refuse(kernel, fmt::format("has no threadgroup allocation {}", index));
  }
}

// Metal makes no kernel from constants without a value.
void check_constants(const EmbeddedShader& shader, const MslKernel& kernel, const FunctionConstants& constants) {
  for (std::uint32_t i = 0; i < shader.library->constant_count; ++i) {
    const MslFunctionConstant& constant = shader.library->constants[i];
    if (kernel.constants[i] == 0 || constants.contains(constant.index)) continue;
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("shader {}: kernel {} uses function constant {} ({} {}), which has no value", shader.name,
                            kernel.name, constant.index, constant.type, constant.name));
  }
}

}  // namespace

std::string source_of(const EmbeddedShader& shader) {
  return unpack_text(shader.source, 0);
}

const EmbeddedShader& find_shader(std::string_view name) {
  std::string known;
  for (const EmbeddedShader& shader : embedded_shaders()) {
    if (shader.name == name) return shader;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", shader.name);
  }
  throw Error(ErrorCode::kNotFound, fmt::format("no shader {}; there are {}", name, known));
}

const char* shader_type(DType type) {
  switch (type) {
    case DType::kF32: return "float";
    case DType::kF16: return "half";
    case DType::kBf16: return "bfloat";
    default:
      throw Error(ErrorCode::kInvalidArgument, fmt::format("expected F32, F16 or BF16, found {}", dtype_name(type)));
  }
}

std::uint32_t busy_threads(std::int64_t elements) {
  return static_cast<std::uint32_t>(std::clamp<std::int64_t>(elements, 1, 1 << 18));
}

MslConstantValues constant_values(const MslLibrary& library, const FunctionConstants& constants) {
  MslConstantValues values{};
  const std::span<const MslFunctionConstant> known(library.constants, library.constant_count);
  for (const auto& [index, value] : constants) {
    const auto found =
        std::find_if(known.begin(), known.end(), [wanted = index](const auto& c) { return c.index == wanted; });
    if (found == known.end())
      throw Error(ErrorCode::kInvalidArgument, fmt::format("the shader has no function constant {}", index));
    if (value.size() != found->size) {
      throw Error(ErrorCode::kInvalidArgument, fmt::format("function constant {} ({}): expected {} bytes, found {}",
                                                           found->name, found->type, found->size, value.size()));
    }
    const auto slot = static_cast<std::size_t>(found - known.begin());
    std::memcpy(values.value[slot], value.data(), value.size());
    values.defined[slot] = 1;
  }
  return values;
}

void Buffer::check_range(std::size_t bytes, std::size_t offset) const {
  if (offset > size_ || bytes > size_ - offset) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} bytes at offset {} of a buffer of {} bytes", bytes, offset, size_));
  }
}
void Buffer::upload(std::span<const std::byte> bytes, std::size_t offset) {
  check_range(bytes.size(), offset);
  if (!bytes.empty()) write(bytes, offset);
}
void Buffer::download(std::span<std::byte> bytes, std::size_t offset) const {
  check_range(bytes.size(), offset);
  if (!bytes.empty()) read(bytes, offset);
}

void Commands::dispatch(const Pipeline& pipeline, const Size3& threadgroups, const Size3& threads_per_threadgroup,
                        const Arguments& arguments) {
  Size3 threads{};
  for (std::size_t i = 0; i < 3; ++i) threads[i] = threadgroups[i] * threads_per_threadgroup[i];
  dispatch_threads(pipeline, threads, threads_per_threadgroup, arguments);
}

void Commands::dispatch_threads(const Pipeline& pipeline, const Size3& threads, const Size3& threads_per_threadgroup,
                                const Arguments& arguments) {
  const MslKernel& kernel = pipeline.kernel();
  const std::uint64_t size =
      std::uint64_t{threads_per_threadgroup[0]} * threads_per_threadgroup[1] * threads_per_threadgroup[2];
  const std::uint32_t limit = kernel.max_threads != 0 ? kernel.max_threads : kMaxThreads;
  if (size == 0 || size > limit)
    refuse(kernel, fmt::format("a threadgroup of {} threads, expected 1 to {}", size, limit));
  check_arguments(kernel, arguments);
  if (threads[0] == 0 || threads[1] == 0 || threads[2] == 0) return;
  encode(pipeline, threads, threads_per_threadgroup, arguments);
}

Device::Device() = default;
Device::~Device() = default;

void SharedMemoryQueue::copy(const Buffer& from, std::size_t from_offset, Buffer& to, std::size_t to_offset,
                             std::size_t bytes) {
  std::vector<std::byte> between(bytes);
  from.download(between, from_offset);
  to.upload(between, to_offset);
}

std::unique_ptr<Queue> Device::make_queue() {
  return std::make_unique<SharedMemoryQueue>([this] { return commands(); });
}

std::size_t Device::available_memory() const {
  return metal_marlin::available_memory();
}

const MatrixUnit& Device::matrix_unit() {
  std::call_once(asked_, [&] { matrix_unit_ = std::make_unique<const MatrixUnit>(probe_matrix_unit(*this)); });
  return *matrix_unit_;
}

const Pipeline& Device::pipeline(std::string_view shader, std::string_view kernel, const FunctionConstants& constants) {
  std::string key = fmt::format("{}/{}", shader, kernel);
  for (const auto& [index, value] : constants) {
    key += fmt::format("/{}=", index);
    for (const std::byte byte : value) key += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  }
  const std::lock_guard<std::mutex> lock(pipelines_mutex_);
  const auto found = pipelines_.find(key);
  if (found != pipelines_.end()) return *found->second;
  const EmbeddedShader& embedded = find_shader(shader);
  const std::span<const MslKernel> kernels(embedded.library->kernels, embedded.library->kernel_count);
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    if (kernels[i].name != kernel) continue;
    check_constants(embedded, kernels[i], constants);
    return *pipelines_.emplace(std::move(key), make_pipeline(embedded, i, constants)).first->second;
  }
  throw Error(ErrorCode::kNotFound, fmt::format("shader {} has no kernel {}", shader, kernel));
}

std::unique_ptr<Buffer> Device::allocate_with(std::span<const std::byte> bytes) {
  auto buffer = allocate(bytes.size());
  buffer->upload(bytes);
  return buffer;
}

}  // namespace metal_marlin::msl
