// What of a module would run, or come from elsewhere, without a kernel's doing.
#pragma once

#include <llvm/IR/Module.h>

#include <string>
#include <vector>

namespace metal_marlin::air {

// The functions that run before main would, were there one; each thread runs them before its kernel.
std::vector<llvm::Function*> static_initialisers(llvm::Module& module);

// Static initialisers that do more than give the module's constants their values, destructors, functions that are
// chosen when a library is loaded, assembly, and variables of the program that loads it. \throws Error (kUnsupported)
// that names them.
void refuse_foreign_code(llvm::Module& module, const std::string& kernel);

}  // namespace metal_marlin::air
