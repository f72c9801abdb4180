// LLVM's libraries end the program where they find what they do not expect; a corrupt module must not.
#pragma once

#include <functional>
#include <string>

namespace metal_marlin::air {

// Once, before run_guarded.
void initialise_guard();

// Runs the work, and passes on what it throws.
// \throws Error (kCorruptFile) naming `what` when LLVM gave up or crashed in it.
void run_guarded(const std::string& what, const std::function<void()>& work);

}  // namespace metal_marlin::air
