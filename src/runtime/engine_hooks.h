// Where tests make an engine fail, or take its backend for one of another kind.
#pragma once

#include <functional>

#include "metal_marlin/engine.h"

namespace metal_marlin {

struct Engine::Hooks {
  std::function<void()> before_step;    // what it throws is the step's error
  std::function<void()> between_steps;  // what it throws ends the thread
  bool memory_apart = false;            // caches are swapped as if they lay in memory of a device
};

}  // namespace metal_marlin
