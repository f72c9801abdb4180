// The tables by which a library is known (tools/msl/include/msl_abi.h).
#pragma once

#include <vector>

#include "description.h"
#include "lower.h"

namespace metal_marlin::air {

// On the host MslLibrary and what it points to; on NVIDIA the function constants' values.
void build_tables(llvm::Module& module, const std::vector<Kernel>& kernels,
                  const std::vector<FunctionConstant>& constants, const LowerOptions& options);

}  // namespace metal_marlin::air
