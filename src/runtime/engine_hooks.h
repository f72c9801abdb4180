// Where tests make an engine fail.
#pragma once

#include <functional>

#include "metal_marlin/engine.h"

namespace metal_marlin {

struct Engine::Hooks {
  std::function<void()> before_step;    // what it throws is the step's error
  std::function<void()> between_steps;  // what it throws ends the thread
};

}  // namespace metal_marlin
