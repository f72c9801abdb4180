// What an encoder was told, dispatch by dispatch.
#pragma once

#include <Metal/Metal.hpp>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "backends/msl/host/executor.h"
#include "rules.h"

namespace metal_stub {

using metal_marlin::msl::Size3;

struct Bound {
  const MTL::Buffer* buffer = nullptr;  // null: bytes
  std::size_t offset = 0;
  std::size_t end = 0;  // of the piece
  std::vector<std::byte> bytes;
};

struct Dispatch {
  const MTL::ComputePipelineState* state = nullptr;
  std::map<std::uint32_t, Bound> buffers;
  std::map<std::uint32_t, std::uint32_t> threadgroups;  // bytes by index
  Size3 threads{};
  Size3 group{};
};

// An argument of a dispatch that lies in a buffer, and what reflection says of it.
struct Use {
  const MTL::Buffer* buffer;
  std::size_t begin;
  std::size_t end;
  bool writes;
  std::uint32_t index;
  const char* kernel;
};
std::vector<Use> uses_of(const Dispatch& dispatch);
// The pair that must not run side by side: "RAW: kernel a, buffer 1, and kernel b, buffer 2"; empty: there is none.
std::string conflict(const Dispatch& before, const Dispatch& after);

// What one encoder was told.
struct Pass {
  int number = 0;  // in the order of commits, from 1
  bool concurrent = false;
  std::string label;
  std::vector<std::vector<Dispatch>> groups{1};  // parted by barriers
  std::vector<const MTL::Fence*> waits;
  std::vector<const MTL::Fence*> updates;
  std::set<int> after;  // passes that a fence makes it wait for, and theirs
};

// Checks a dispatch by itself. \returns whether it can be run.
bool check_dispatch(const Dispatch& dispatch);
void run_on_host_executor(const Dispatch& dispatch);

}  // namespace metal_stub
