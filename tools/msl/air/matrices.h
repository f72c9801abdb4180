// 8x8 matrices are values of 64 elements in AIR, of which a lane uses two.
#pragma once

#include <string>

namespace llvm {
class Function;
}

namespace metal_marlin::air {

// Makes them vectors of two. In memory they keep their 64 places.
// \throws Error (kUnsupported) naming the kernel and what is done with a matrix.
void narrow_matrices(llvm::Function& function, const std::string& kernel);

}  // namespace metal_marlin::air
