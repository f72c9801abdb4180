// Tokens grouped by expert, and put together again, on a device (shaders/moe_dispatch.metal).
#pragma once

#include "backends/msl/device.h"

namespace metal_marlin::msl {

// Where the assignments of tokens to experts go. Within an expert they keep their order.
struct MoeGroups {
  Buffer* counts = nullptr;   // i32 [experts]
  Buffer* offsets = nullptr;  // i32 [experts + 1]: first grouped row of each expert; the last: all
  Buffer* order = nullptr;    // i32 [tokens * chosen]: the assignment at each grouped row
  Buffer* places = nullptr;   // i32 [tokens][chosen]: the grouped row of each; -1: no expert's
};

// ids i32 [tokens][chosen]; those outside [0, experts) go nowhere.
void encode_moe_groups(Device& device, Commands& commands, std::int64_t experts, std::int64_t tokens,
                       std::int64_t chosen, Buffer& ids, const MoeGroups& groups);

// out[row] = x[token of the row's assignment]; out has tokens * chosen rows of `width`.
void encode_moe_gather(Device& device, Commands& commands, DType type, std::int64_t experts, std::int64_t tokens,
                       std::int64_t chosen, std::int64_t width, Buffer& x, const MoeGroups& groups, Buffer& out);

// y[token] = sum over its choices, in order, of weight * row (+ y); weights f32 [tokens][chosen].
void encode_moe_combine(Device& device, Commands& commands, DType type, std::int64_t tokens, std::int64_t chosen,
                        std::int64_t width, Buffer& rows, const MoeGroups& groups, Buffer& weights, bool accumulate,
                        Buffer& y);

}  // namespace metal_marlin::msl
