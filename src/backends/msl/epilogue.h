// What stands between products on a device: activations, gated pairs, residuals,
// norms, rows picked out. Data of type f32, f16 or bf16.
#pragma once

#include "backends/msl/linear.h"

namespace metal_marlin::msl {

// y[rows][cols] = act(y + bias), in place; bias f32 [cols] or null.
void encode_epilogue(Device& device, Commands& commands, DType type, std::int64_t rows, std::int64_t cols, Buffer& y,
                     Buffer* bias, Activation activation);
// out = act(gate) * up (arXiv 2002.05202), or as the form says; out may be either.
void encode_gated(Device& device, Commands& commands, DType type, std::int64_t elements, const GateParams& form,
                  Buffer& gate, Buffer& up, Buffer& out);
// x += y
void encode_residual(Device& device, Commands& commands, DType type, std::int64_t elements, Buffer& x, Buffer& y);
// Root-mean-square norm of `runs` runs of `width` elements; weight f32 [width]; out may be x.
void encode_rms_norm(Device& device, Commands& commands, DType type, std::int64_t runs, std::int64_t width, float eps,
                     Buffer& x, Buffer& weight, Buffer& out);
// The same by mean and deviation, without a bias.
void encode_layer_norm(Device& device, Commands& commands, DType type, std::int64_t runs, std::int64_t width, float eps,
                       Buffer& x, Buffer& weight, Buffer& out);
// x *= factor, then, unless the cap is 0, x = cap * tanh(x / cap).
void encode_scale(Device& device, Commands& commands, DType type, std::int64_t elements, float factor, float soft_cap,
                  Buffer& x);
// x[t] *= 1 + beta * log(1 + floor(positions[t] / span)); positions i32 [tokens].
void encode_scale_by_position(Device& device, Commands& commands, DType type, std::int64_t tokens, std::int64_t width,
                              float beta, float span, Buffer& positions, Buffer& x);
// out[i] = in[rows[i]]; rows i32 [count].
void encode_select_rows(Device& device, Commands& commands, DType type, std::int64_t count, std::int64_t width,
                        Buffer& in, Buffer& rows, Buffer& out);

// out[i] = first[i] and second[i] side by side, of so many elements each.
void encode_join_rows(Device& device, Commands& commands, DType type, std::int64_t count, std::int64_t first_width,
                      std::int64_t second_width, Buffer& first, Buffer& second, Buffer& out);

}  // namespace metal_marlin::msl
