// From AIR to a machine's code.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "input.h"
#include "spaces.h"

namespace metal_marlin::air {

struct LowerOptions {
  Machine machine = Machine::kHost;
  std::string gpu = "sm_90";
  std::string symbol = "msl_library";  // the host's table
  bool instrument = false;             // loads and stores are reported to the executor
  bool quick = false;                  // without optimisation
};

// The kernels' functions and the table of them.
// \throws Error that names the kernel.
std::unique_ptr<llvm::Module> lower(llvm::LLVMContext& context, const std::vector<KernelSource>& sources,
                                    const LowerOptions& options);

}  // namespace metal_marlin::air
