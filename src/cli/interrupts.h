// Ctrl-C (SIGINT) and requests to end (SIGTERM).
#pragma once

namespace metal_marlin::cli {

// From here on signals are asked for with interrupted(), so that a command can end as it should. One that does not ask
// within seconds of the first signal, as while it reads a file, is ended there, and by a second signal at once; what
// is left of its outputs is what a killed process leaves.
void handle_interrupts();

// Whether a signal came.
bool interrupted();
// What it asked for was done: the program ends as it would have.
void forget_interrupt();
// Whether the program was asked to end (SIGTERM), which is not forgotten.
bool terminated();

inline constexpr int kInterruptedCode = 130;

}  // namespace metal_marlin::cli
