// What clang's modules say in LLVM's words, in those of Apple's compiler.
#pragma once

#include <string>

namespace llvm {
class Module;
}

namespace metal_marlin::air {

// Conversions between integers and floats and LLVM's mathematical functions become calls of AIR's;
// function constants and threadgroup variables, layout and triple as Apple's compiler has them.
// \throws Error (kUnsupported) naming `where`, the function, and what AIR has no word for.
void use_air_words(llvm::Module& module, const std::string& where);

}  // namespace metal_marlin::air
