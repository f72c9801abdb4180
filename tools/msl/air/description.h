// What a kernel's module says of itself, for listings and for the tables that the executor reads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace llvm {
class Function;
class GlobalVariable;
class Module;
}  // namespace llvm

namespace metal_marlin::air {

enum class ArgumentKind : std::uint8_t { kBuffer, kThreadgroup, kBuiltin };

struct Argument {
  std::string name;
  std::string type;  // as MSL writes it
  ArgumentKind kind{};
  bool read_only = false;
  bool by_value = false;  // a `constant` reference
  bool optional = false;  // depends on a function constant
  std::uint32_t index = 0;
  std::uint32_t size = 0;
  std::uint32_t alignment = 0;
};

struct FunctionConstant {
  std::string name;
  std::string type;
  std::uint32_t index = 0;
  std::uint32_t size = 0;
  llvm::GlobalVariable* variable = nullptr;  // that holds its value in the module
};

struct Kernel {
  std::string name;
  llvm::Function* function = nullptr;
  std::vector<Argument> arguments;  // in the function's order
  std::vector<FunctionConstant> constants;
  std::vector<std::string> compile_options;
  std::string air_version;
  std::string language;
  std::uint32_t max_threads = 0;
};

// What MSL calls a position, by MslBuiltin.
const char* builtin_name(std::uint32_t index);

// The kernels of a module, by name.
std::vector<std::string> kernel_names(const llvm::Module& module);

// \throws Error (kNotFound, kCorruptFile, kUnsupported) naming the kernel and the argument.
Kernel describe(llvm::Module& module, const std::string& name);

}  // namespace metal_marlin::air
