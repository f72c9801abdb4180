// A gated feed-forward part on a device, an expert that sees every token or a dense layer's
// (shaders/moe_shared_expert.metal).
#pragma once

#include "backends/msl/linear.h"

namespace metal_marlin::msl {

// Whether gate and up can be multiplied in one pass: both quantized alike, or both f16 or bf16.
bool can_fuse_gate_up(const Linear& gate, const Linear& up);

struct GateUpCall {
  Buffer* x = nullptr;  // f32 [tokens][cols]; null: the workspace holds them, prepared
  Buffer* y = nullptr;  // f32 [tokens][rows]
  std::int64_t tokens = 0;
};
// y = silu(gate x) * (up x), activations in half precision as of Activations::kInt8.
// \throws Error (kInvalidArgument) when they cannot be fused.
void encode_gate_up(Device& device, Commands& commands, const Linear& gate, const Linear& up, const GateUpCall& call,
                    const LinearWorkspace& workspace);

// y += sigmoid(gate[token]) * x, f32 [tokens][width]; without a gate (null) y += x.
void encode_shared_add(Device& device, Commands& commands, std::int64_t tokens, std::int64_t width, Buffer& x,
                       Buffer* gate, Buffer& y);

}  // namespace metal_marlin::msl
