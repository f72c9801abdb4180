// The scale rule: for one group of weights, the scale (and zero) that minimises
// the squared error of the rounded group, searched among the values that the
// stored scale type can hold.
#pragma once

#include <cstdint>
#include <span>

#include "metal_marlin/format.h"

namespace metal_marlin {

// How one group was quantized. `scale` and `minimum` are exactly
// representable in the stored types.
struct GroupFit {
  float scale = 0;
  float minimum = 0;      // ZeroKind::kMinimum
  std::uint8_t zero = 0;  // ZeroKind::kInteger
  double squared_error = 0;
};

// x: the finite weights of one group. importance: a positive factor on each one's squared error;
// empty: all count alike. global_scale: NVFP4's per-tensor divisor
// (a stored scale s acts as s / global_scale), 1 elsewhere. An all-zero group
// gets scale 0 (E8M0, which has no zero, gets 2^-127) and codes of zero.
GroupFit fit_group(const FormatSpec& spec, std::span<const float> x, float global_scale,
                   std::span<const float> importance = {});

// The factor that turns an element (minus the zero) into a weight.
float effective_scale(const FormatSpec& spec, float stored_scale, float global_scale);

// The codes of the group under `fit`.
void encode_group(const FormatSpec& spec, std::span<const float> x, const GroupFit& fit, float global_scale,
                  std::uint8_t* codes);

// NVFP4's per-tensor divisor for tensors whose largest magnitude is `largest`:
// it maps that weight to the largest element under the largest scale, 6 * 448.
float nvfp4_global_scale(float largest);

// Nearest value of the scale type, saturating at its largest finite value.
float round_scale(ScaleType type, float scale);

}  // namespace metal_marlin
