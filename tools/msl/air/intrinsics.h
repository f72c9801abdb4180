// The functions that AIR calls, put in from the text in definitions/.
#pragma once

#include <string>
#include <string_view>

#include "spaces.h"

namespace metal_marlin::air {

// The definitions' bitcode for a machine.
std::string_view definitions(Machine machine, bool instrument);

// Gives every function that the kernel calls a body.
// \throws Error (kUnsupported) that names the kernel and the function.
void define_intrinsics(llvm::Module& module, Machine machine, bool instrument, const std::string& kernel);

}  // namespace metal_marlin::air
