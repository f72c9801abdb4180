// The thread pools of a process.
#pragma once

#include <memory>

#include "base/thread_pool.h"

namespace metal_marlin {

// The pool of so many threads (0: one per usable core), the same for all who hold one: their tasks take turns, so that
// models side by side do not ask for more threads than there are cores. It goes with the last of them.
std::shared_ptr<ThreadPool> shared_pool(int threads);

}  // namespace metal_marlin
