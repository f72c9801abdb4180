// Part of the fuzz targets.
#pragma once

#include "metal_marlin/error.h"

namespace metal_marlin {

// Runs `action`; an Error is a good outcome, anything else is not caught.
template <typename Action>
void attempt(const Action& action) {
  try {
    action();
  } catch (const Error&) {
  }
}

}  // namespace metal_marlin
