// Runs a kernel of a compiled shader library on the host executor, for Python's ctypes.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <span>
#include <string>

#include "backends/msl/host/executor.h"

using metal_marlin::msl::HostDispatch;

namespace {

struct Bytes {
  std::uint32_t index;
  std::uint32_t size;
  std::byte* data;
};

const MslKernel* find_kernel(const MslLibrary& library, const char* name) {
  for (const MslKernel& kernel : std::span(library.kernels, library.kernel_count)) {
    if (std::strcmp(kernel.name, name) == 0) return &kernel;
  }
  return nullptr;
}

// A constant that the library does not use is no fault.
std::string set_constants(const MslLibrary& library, std::span<const Bytes> constants) {
  *library.values = {};
  for (std::uint32_t slot = 0; slot < library.constant_count; ++slot) {
    const MslFunctionConstant& known = library.constants[slot];
    for (const Bytes& constant : constants) {
      if (constant.index != known.index) continue;
      if (constant.size != known.size)
        return fmt::format("function constant {} has {} bytes, not {}", known.name, known.size, constant.size);
      std::memcpy(library.values->value[slot], constant.data, constant.size);
      library.values->defined[slot] = 1;
    }
  }
  return "";
}

std::string run(const MslLibrary& library, const char* name, const std::uint32_t* threads,
                const std::uint32_t* threadgroup, std::span<const Bytes> buffers, std::span<const Bytes> threadgroups,
                std::span<const Bytes> constants) {
  HostDispatch dispatch;
  dispatch.kernel = find_kernel(library, name);
  if (dispatch.kernel == nullptr) return fmt::format("the library has no kernel {}", name);
  std::string message = set_constants(library, constants);
  if (!message.empty()) return message;
  std::copy_n(threads, 3, dispatch.threads.begin());
  std::copy_n(threadgroup, 3, dispatch.threadgroup.begin());
  for (const Bytes& buffer : buffers) {
    if (dispatch.buffers.size() <= buffer.index) dispatch.buffers.resize(buffer.index + 1);
    dispatch.buffers[buffer.index] = {buffer.data, buffer.size, fmt::format("buffer {}", buffer.index)};
  }
  for (const Bytes& memory : threadgroups) {
    if (dispatch.threadgroups.size() <= memory.index) dispatch.threadgroups.resize(memory.index + 1);
    dispatch.threadgroups[memory.index] = memory.size;
  }
  for (const MslArgument& argument : std::span(dispatch.kernel->arguments, dispatch.kernel->argument_count)) {
    const bool bound = argument.index < dispatch.buffers.size() && dispatch.buffers[argument.index].data != nullptr;
    if (argument.kind == kMslBuffer && !bound && argument.optional == 0)
      return fmt::format("argument {} (buffer {}) is bound to nothing", argument.name, argument.index);
    if (argument.kind == kMslThreadgroup && argument.index >= dispatch.threadgroups.size())
      return fmt::format("argument {} (threadgroup {}) has no size", argument.name, argument.index);
  }
  const auto fault = run_on_host(dispatch);
  return fault ? fault->message : "";
}

}  // namespace

extern "C" void differential_run(const MslLibrary* library, const char* name, const std::uint32_t* threads,
                                 const std::uint32_t* threadgroup, const Bytes* buffers, std::uint32_t buffer_count,
                                 const Bytes* threadgroups, std::uint32_t threadgroup_count, const Bytes* constants,
                                 std::uint32_t constant_count, char* message, std::size_t message_size) {
  const std::string text = run(*library, name, threads, threadgroup, {buffers, buffer_count},
                               {threadgroups, threadgroup_count}, {constants, constant_count});
  std::snprintf(message, message_size, "%s", text.c_str());
}
