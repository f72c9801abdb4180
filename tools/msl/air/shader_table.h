// The table of kernels in a module that clang made of a shader (msl_abi.h's MslLibrary).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace llvm {
class Function;
class Module;
}  // namespace llvm

namespace metal_marlin::air {

struct TableArgument {
  std::string name;
  std::string type;        // without address space, const and * or &
  std::uint32_t kind = 0;  // MslArgumentKind
  bool read_only = false;
  bool reference = false;
  std::uint32_t index = 0;
  std::uint32_t size = 0;
  std::uint32_t alignment = 0;
};

struct TableKernel {
  std::string name;
  llvm::Function* function = nullptr;
  std::vector<TableArgument> arguments;
  std::uint32_t max_threads = 0;
};

struct TableConstant {
  std::string name;
  std::string type;
  std::uint32_t index = 0;
};

struct ShaderTable {
  std::vector<TableKernel> kernels;
  std::vector<TableConstant> constants;
};

// Reads the table and takes it out of the module.
// \throws Error (kCorruptFile, kUnsupported) naming `where`, the kernel and the argument.
ShaderTable take_table(llvm::Module& module, const std::string& where);

}  // namespace metal_marlin::air
