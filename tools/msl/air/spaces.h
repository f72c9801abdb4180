// AIR's numbers of address spaces become those of the target.
#pragma once

#include <cstdint>
#include <memory>

namespace llvm {
class Module;
}

namespace metal_marlin::air {

enum class Machine : std::uint8_t { kHost, kPtx };

// A copy of the module's functions and variables. The host has one space; NVIDIA has AIR's but for
// constants, which lie in no space of their own.
std::unique_ptr<llvm::Module> copy_to_spaces_of(llvm::Module& module, Machine machine);

}  // namespace metal_marlin::air
