// Lowers every kernel of a file, to see which can be.
#pragma once

#include <string>
#include <vector>

#include "input.h"
#include "lower.h"

namespace metal_marlin::air {

struct CheckResult {
  std::string kernel;
  std::string error;  // empty: it was lowered
};

// By several threads at once, in the order of the kernels.
std::vector<CheckResult> check(const std::vector<KernelSource>& kernels, const LowerOptions& options, int threads);

// "affine_qmv" of "affine_qmv_float_gs_64_b_4": the words before the first that tells a type or a number.
std::string family(const std::string& kernel);

}  // namespace metal_marlin::air
