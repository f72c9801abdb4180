// The choice of experts on a device (shaders/moe_router.metal).
#pragma once

#include "backends/msl/device.h"

namespace metal_marlin::msl {

struct RouterOptions {
  std::uint32_t experts = 0;      // at most 1024
  std::uint32_t chosen = 0;       // of a token, at most 32
  std::uint32_t groups = 1;       // of experts, at most 32
  std::uint32_t group_limit = 1;  // groups that a token may choose from
  std::uint32_t group_best = 2;   // a group's score is the sum of its best so many: 1 or 2
  bool sigmoid = false;           // scores, else softmax
  bool normalize = true;          // weights sum up to 1 before they are scaled
  float scale = 1;
};

// f32 [experts]; null: there are none.
struct RouterVectors {
  Buffer* bias = nullptr;           // added for the choice alone
  Buffer* expert_scales = nullptr;  // on the weights, of each expert
};

// logits f32 [tokens][experts];
// ids i32 and weights f32 [tokens][chosen], the best first. Ties go to the lower index, NaN
// counts as less than any number. \throws Error (kInvalidArgument) naming the option.
void encode_moe_router(Device& device, Commands& commands, const RouterOptions& options, std::int64_t tokens,
                       Buffer& logits, const RouterVectors& vectors, Buffer& ids, Buffer& weights);

}  // namespace metal_marlin::msl
