// The function by which an executor starts a thread of a kernel.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "description.h"
#include "spaces.h"

namespace metal_marlin::air {

// Places in the library's list of constants, by index.
using ConstantPlaces = std::map<std::uint32_t, std::uint32_t>;

constexpr const char* kConstantValues = "msl_constant_values";

// Reads of function constants, and questions whether they are defined, become reads of MslConstantValues.
void bind_constants(llvm::Module& module, Machine machine, const Kernel& kernel, const ConstantPlaces& places);

// A function `name` that takes what the machine's executor gives, initialises the kernel's constants and
// calls it.
void build_entry(llvm::Module& module, Machine machine, const Kernel& kernel, const std::string& name);

// Makes the entry the module's only function.
// \throws Error (kUnsupported) where that cannot be.
void inline_all(llvm::Module& module, const std::string& entry, const std::string& kernel);

// Variables that a thread has for itself (what a kernel's static initialisers write) become its
// locals; on the host, threadgroup variables come from the executor.
void localise_variables(llvm::Module& module, Machine machine, const std::string& entry,
                        const std::vector<std::string>& threadgroup_variables, const std::vector<std::string>& own);

}  // namespace metal_marlin::air
