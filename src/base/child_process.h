// Programs that this one starts.
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

namespace metal_marlin {

// Starts arguments[0], which is looked for in PATH; `prepare` runs in the child before it. \throws Error when the
// system refuses; a program that cannot be run ends with kCannotRun.
pid_t start_process(std::vector<std::string> arguments, const std::function<void()>& prepare = {});

constexpr int kCannotRun = 127;

// Waits for a child's end; its exit code. \throws Error (kInternal) when a signal ended it.
int wait_for_process(pid_t child, const std::string& name);

}  // namespace metal_marlin
