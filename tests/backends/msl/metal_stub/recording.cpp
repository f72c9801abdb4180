#include "recording.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>

namespace metal_stub {
namespace {

constexpr std::size_t kThreadgroupBytes = 32 << 10;

std::span<const MslArgument> arguments_of(const MslKernel& kernel) {
  return {kernel.arguments, kernel.argument_count};
}

std::string name_of(const MslKernel& kernel, const MslArgument& argument) {
  return fmt::format("kernel {}, {} {} ({})", kernel.name, argument.kind == kMslBuffer ? "buffer" : "threadgroup",
                     argument.index, argument.name);
}

bool check_buffer(const MslKernel& kernel, const MslArgument& argument, const Dispatch& dispatch) {
  const std::string name = name_of(kernel, argument);
  const auto found = dispatch.buffers.find(argument.index);
  if (found == dispatch.buffers.end()) {
    if (argument.optional != 0) return true;
    report(Rule::kArgument, name + " is missing");
    return false;
  }
  const Bound& bound = found->second;
  if (bound.buffer == nullptr) {
    if (bound.bytes.size() >= argument.size && argument.read_only != 0) return true;
    report(Rule::kArgument, fmt::format("{} is given {} bytes by value", name, bound.bytes.size()));
    return false;
  }
  if (bound.end == 0 || bound.end - bound.offset < argument.size) {
    report(Rule::kArgument,
           fmt::format("{}: offset {} lies in no piece that has {} bytes", name, bound.offset, argument.size));
    return false;
  }
  // Apple's page of setBuffer(_:offset:index:): by the type's alignment; in constant space by 4 at least
  // (the Metal Feature Set Tables' "minimum constant buffer offset alignment" of Apple GPUs).
  const bool constant = std::string_view(argument.type).find("constant") != std::string_view::npos;
  const std::size_t alignment = std::max<std::size_t>(argument.alignment, constant ? 4 : 1);
  if (bound.offset % alignment != 0) {
    report(Rule::kOffset, fmt::format("{}: offset {} is no multiple of {}", name, bound.offset, alignment));
    return false;
  }
  return true;
}

bool check_threadgroups(const Dispatch& dispatch) {
  const MslKernel& kernel = dispatch.state->kernel_;
  std::size_t sum = dispatch.state->staticThreadgroupMemoryLength();
  for (const auto& [index, bytes] : dispatch.threadgroups) sum += bytes;
  if (sum > kThreadgroupBytes) {
    report(Rule::kThreadgroupBytes,
           fmt::format("kernel {}: {} bytes, Metal has {}", kernel.name, sum, kThreadgroupBytes));
    return false;
  }
  return std::all_of(arguments_of(kernel).begin(), arguments_of(kernel).end(), [&](const MslArgument& argument) {
    if (argument.kind != kMslThreadgroup || dispatch.threadgroups.contains(argument.index)) return true;
    report(Rule::kArgument, name_of(kernel, argument) + " has no size");
    return false;
  });
}

}  // namespace

std::vector<Use> uses_of(const Dispatch& dispatch) {
  std::vector<Use> out;
  for (const MslArgument& argument : arguments_of(dispatch.state->kernel_)) {
    const auto found = dispatch.buffers.find(argument.index);
    if (argument.kind != kMslBuffer || found == dispatch.buffers.end() || found->second.buffer == nullptr) continue;
    const Bound& bound = found->second;
    out.push_back(
        {bound.buffer, bound.offset, bound.end, argument.read_only == 0, argument.index, dispatch.state->kernel_.name});
  }
  return out;
}

std::string conflict(const Dispatch& before, const Dispatch& after) {
  const std::vector<Use> later = uses_of(after);
  for (const Use& a : uses_of(before)) {
    for (const Use& b : later) {
      if (a.buffer != b.buffer || a.end <= b.begin || b.end <= a.begin || !(a.writes || b.writes)) continue;
      const char* const kind = !a.writes ? "WAR" : b.writes ? "WAW" : "RAW";
      return fmt::format("{}: kernel {}, buffer {}, and kernel {}, buffer {}", kind, a.kernel, a.index, b.kernel,
                         b.index);
    }
  }
  return "";
}

bool check_dispatch(const Dispatch& dispatch) {
  const MslKernel& kernel = dispatch.state->kernel_;
  const std::size_t threads = std::size_t{dispatch.group[0]} * dispatch.group[1] * dispatch.group[2];
  if (threads == 0 || threads > dispatch.state->maxTotalThreadsPerThreadgroup()) {
    report(Rule::kThreads, fmt::format("kernel {}: {} in a threadgroup, at most {}", kernel.name, threads,
                                       dispatch.state->maxTotalThreadsPerThreadgroup()));
    return false;
  }
  bool runs = check_threadgroups(dispatch);
  for (const MslArgument& argument : arguments_of(kernel))
    runs = (argument.kind != kMslBuffer || check_buffer(kernel, argument, dispatch)) && runs;
  return runs;
}

void run_on_host_executor(const Dispatch& dispatch) {
  metal_marlin::msl::HostDispatch host;
  host.kernel = &dispatch.state->kernel_;
  host.threads = dispatch.threads;
  host.threadgroup = dispatch.group;
  host.workers = 2;
  std::vector<std::vector<std::byte>> bytes;
  bytes.reserve(dispatch.buffers.size());
  for (const MslArgument& argument : arguments_of(dispatch.state->kernel_)) {
    if (argument.kind == kMslThreadgroup) {
      if (host.threadgroups.size() <= argument.index) host.threadgroups.resize(argument.index + 1);
      host.threadgroups[argument.index] = dispatch.threadgroups.at(argument.index);
    }
    if (argument.kind != kMslBuffer) continue;
    if (host.buffers.size() <= argument.index) host.buffers.resize(argument.index + 1);
    const auto found = dispatch.buffers.find(argument.index);
    if (found == dispatch.buffers.end()) continue;
    const Bound& bound = found->second;
    std::byte* const data =
        bound.buffer != nullptr ? bound.buffer->memory_ + bound.offset : bytes.emplace_back(bound.bytes).data();
    host.buffers[argument.index] = {data, bound.buffer != nullptr ? bound.end - bound.offset : bound.bytes.size(),
                                    name_of(dispatch.state->kernel_, argument)};
  }
  *dispatch.state->library_.values = dispatch.state->constants_;
  const auto fault = run_on_host(host);
  if (fault) report(Rule::kExecution, fmt::format("kernel {}: {}", dispatch.state->kernel_.name, fault->message));
}

}  // namespace metal_stub
