// Modules that clang made of our shaders become a metallib such as Apple's compiler makes of them.
#pragma once

#include <string>
#include <vector>

namespace metal_marlin::air {

// `modules` are files of bitcode by `mslc.py metallib`: a shader's kernels, and the table of them.
// \throws Error naming the file, the kernel and what AIR has no word for.
void pack(const std::vector<std::string>& modules, const std::string& output);

}  // namespace metal_marlin::air
