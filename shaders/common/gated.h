// The product of a gate and what it opens.
#pragma once
#include "epilogue.h"
#include "gate_params.h"

// What is no number stays so, as it is not above a limit.
METAL_FUNC float gated_product(constant GateParams& p, float gate, float up) {
  if (p.clamped == 0) return activate(p.activation, gate) * up;
  const float g = gate > p.limit ? p.limit : gate;
  const float u = up > p.limit ? p.limit : up < -p.limit ? -p.limit : up;
  return (u + 1.0f) * (g / (1.0f + exp(-p.alpha * g)));
}
