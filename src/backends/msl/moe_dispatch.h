// Tokens grouped by expert, and put together again, on a device (shaders/moe_dispatch.metal).
#pragma once

#include "backends/msl/device.h"
#include "common/gate_params.h"

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

// gate = the gated product of grouped rows, after the biases of each row's expert are added: f32 [experts][width].
void encode_moe_gated(Device& device, Commands& commands, std::int64_t experts, std::int64_t rows, std::int64_t width,
                      const GateParams& form, Buffer& ids, const MoeGroups& groups, Buffer& gate, Buffer& up,
                      Buffer& gate_biases, Buffer& up_biases);

// Biases of the experts that grouped rows are results of: f32 [experts][width].
struct MoeBiases {
  Buffer* biases = nullptr;  // null: none
  Buffer* ids = nullptr;     // as encode_moe_groups'
};
// y[token] = sum over its choices, in order, of weight * (row + bias) (+ y); weights f32 [tokens][chosen].
void encode_moe_combine(Device& device, Commands& commands, DType type, std::int64_t tokens, std::int64_t chosen,
                        std::int64_t width, Buffer& rows, const MoeGroups& groups, Buffer& weights, bool accumulate,
                        Buffer& y, const MoeBiases& biases = {});

}  // namespace metal_marlin::msl
