// How Apple's compiler describes a kernel in its module.
#pragma once

#include <vector>

#include "io/metallib.h"
#include "shader_table.h"

namespace llvm {
class Module;
}

namespace metal_marlin::air {

constexpr MetallibVersion kAirVersion{2, 6};
constexpr MetallibVersion kMslVersion{3, 1};

// The module's named metadata, in place of what it has.
void describe_in_metadata(llvm::Module& module, const TableKernel& kernel, const std::vector<TableConstant>& constants);

}  // namespace metal_marlin::air
