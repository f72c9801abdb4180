// What becomes of a gate and what it opens.
#pragma once

struct GateParams {
  unsigned activation;  // of the gate, as ActivationKind; the product is activation(gate) * up
  unsigned clamped;     // instead: (u + 1) * g * sigmoid(alpha * g), g at most the limit, u within it on both sides
  float alpha;
  float limit;
};
