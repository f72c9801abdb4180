// From a module to a file.
#pragma once

#include <memory>
#include <string>

#include "lower.h"

namespace llvm {
class TargetMachine;
class raw_pwrite_stream;
}  // namespace llvm

namespace metal_marlin::air {

enum class Product : std::uint8_t { kObject, kShared, kPtx };

// Once, before anything else here.
void initialise_targets();

std::unique_ptr<llvm::TargetMachine> target_machine(const LowerOptions& options);

// Optimises and instruments as the options say, and writes an object, or PTX's text.
void emit(llvm::Module& module, llvm::TargetMachine& machine, const LowerOptions& options,
          llvm::raw_pwrite_stream& out);

// Writes a file, whole or not at all; clang links a shared library.
// \throws Error (kIo)
void emit_file(llvm::Module& module, Product product, const LowerOptions& options, const std::string& output);

}  // namespace metal_marlin::air
