// Files that hold kernels: a metallib (a module for each), LLVM's bitcode or its text.
#pragma once

#include <llvm/IR/LLVMContext.h>
#include <llvm/IR/Module.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace llvm {
class MemoryBuffer;
}

namespace metal_marlin::air {

// A kernel's name, and the module that it is in, as part of the file's bytes.
struct KernelSource {
  std::string name;
  std::string_view module;
};

class InputFile {
 public:
  // \throws Error (kNotFound, kCorruptFile)
  explicit InputFile(const std::string& path);
  ~InputFile();

  [[nodiscard]] const std::vector<KernelSource>& kernels() const { return kernels_; }
  // Those of these names, all for none.
  // \throws Error (kNotFound) naming one that the file lacks.
  [[nodiscard]] std::vector<KernelSource> select(const std::vector<std::string>& names) const;

 private:
  std::string path_;
  std::unique_ptr<llvm::MemoryBuffer> file_;
  std::vector<KernelSource> kernels_;
};

// \throws Error (kCorruptFile)
std::unique_ptr<llvm::Module> parse_module(llvm::LLVMContext& context, const KernelSource& source);

}  // namespace metal_marlin::air
