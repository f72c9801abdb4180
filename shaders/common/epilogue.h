// What follows a product, the same for every matrix kernel and for those that stand
// alone: y = act(sum + bias) (+ y).
#pragma once
#include <metal_stdlib>

using namespace metal;

// As Activation in src/backends/msl/linear.h.
enum ActivationKind : uint { kNoActivation = 0, kSilu = 1, kGeluTanh = 2, kGelu = 3, kRelu = 4 };

// The error function to 2e-7: x P(x^2) up to 1, beyond 1 - exp(-x^2) Q(1 / (1 + 0.47047 x)),
// polynomials fitted by least squares at Chebyshev's points. MSL has none.
METAL_FUNC float error_function(float x) {
  const float a = fabs(x);
  if (a <= 1.0f) {
    const float t = x * x;
    const float p =
        fma(fma(fma(fma(fma(fma(fma(-9.72840917e-06f, t, 1.12881753e-04f), t, -8.48726777e-04f), t, 5.22126164e-03f), t,
                        -2.68655177e-02f),
                    t, 1.12837844e-01f),
                t, -3.76126379e-01f),
            t, 1.12837923f);
    return x * p;
  }
  const float u = 1.0f / fma(0.47047f, a, 1.0f);
  const float q =
      fma(fma(fma(fma(fma(fma(fma(fma(6.31385073e-02f, u, -1.70215204e-01f), u, 2.50529218e-02f), u, 1.92574903e-01f),
                          u, 9.42102224e-02f),
                      u, 2.72297055e-01f),
                  u, 2.56447852e-01f),
              u, 2.66650379e-01f),
          u, -7.01115569e-05f);
  const float tail = a < 9.0f ? exp(-a * a) * q : 0.0f;
  return isnan(x) ? x : copysign(1.0f - tail, x);
}

// GELU's tanh form is v sigmoid(2u), since (1 + tanh u) / 2 = sigmoid(2u).
METAL_FUNC float activate(uint activation, float v) {
  if (activation == kNoActivation) return v;
  if (activation == kRelu) return v < 0.0f ? 0.0f : v;
  if (activation == kGelu) return 0.5f * v * (1.0f + error_function(v * 0.70710678f));
  const float k = activation == kSilu ? v : 1.5957691216f * (v + 0.044715f * v * v * v);
  return v / (1.0f + exp(-k));
}
