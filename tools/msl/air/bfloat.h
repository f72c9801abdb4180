// Arithmetic of bfloat: in float, rounded after every operation, on every machine.
#pragma once

namespace llvm {
class Function;
}

namespace metal_marlin::air {

void widen_bfloat(llvm::Function& function);

}  // namespace metal_marlin::air
