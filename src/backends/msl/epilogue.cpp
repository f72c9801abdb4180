#include "backends/msl/epilogue.h"

#include <fmt/format.h>

#include <algorithm>

namespace metal_marlin::msl {
namespace {

const Pipeline& pipeline_of(Device& device, const char* kernel, DType type) {
  return device.pipeline("gemm_epilogue", fmt::format("{}_{}", kernel, shader_type(type)));
}

}  // namespace

void encode_epilogue(Device& device, Commands& commands, DType type, std::int64_t rows, std::int64_t cols, Buffer& y,
                     Buffer* bias, Activation activation) {
  if (rows == 0) return;
  const auto width = static_cast<std::uint32_t>(cols);
  commands.dispatch_threads(pipeline_of(device, "epilogue", type), {width, static_cast<std::uint32_t>(rows), 1},
                            {128, 1, 1},
                            Arguments()
                                .buffer(0, y)
                                .buffer(1, bias != nullptr ? *bias : y)
                                .bytes(2, width)
                                .bytes(3, std::uint32_t{bias != nullptr})
                                .bytes(4, static_cast<std::uint32_t>(activation)));
}

void encode_gated(Device& device, Commands& commands, DType type, std::int64_t elements, const GateParams& form,
                  Buffer& gate, Buffer& up, Buffer& out) {
  if (elements == 0) return;
  commands.dispatch_threads(pipeline_of(device, "gated", type), {busy_threads(elements), 1, 1}, {128, 1, 1},
                            Arguments()
                                .buffer(0, gate)
                                .buffer(1, up)
                                .buffer(2, out)
                                .bytes(3, static_cast<std::uint64_t>(elements))
                                .bytes(4, form));
}

void encode_residual(Device& device, Commands& commands, DType type, std::int64_t elements, Buffer& x, Buffer& y) {
  if (elements == 0) return;
  commands.dispatch_threads(pipeline_of(device, "residual", type), {busy_threads(elements), 1, 1}, {128, 1, 1},
                            Arguments().buffer(0, x).buffer(1, y).bytes(2, static_cast<std::uint64_t>(elements)));
}

namespace {

void encode_norm(const char* kernel, Device& device, Commands& commands, DType type, std::int64_t runs,
                 std::int64_t width, float eps, Buffer& x, Buffer& weight, Buffer& out) {
  if (runs == 0) return;
  // A simdgroup for a head, more for a row.
  const auto threads = static_cast<std::uint32_t>(std::clamp<std::int64_t>(width / 128 * 32, 32, 256));
  commands.dispatch(pipeline_of(device, kernel, type), {static_cast<std::uint32_t>(runs), 1, 1}, {threads, 1, 1},
                    Arguments()
                        .buffer(0, x)
                        .buffer(1, weight)
                        .buffer(2, out)
                        .bytes(3, static_cast<std::uint32_t>(width))
                        .bytes(4, eps));
}

}  // namespace

void encode_rms_norm(Device& device, Commands& commands, DType type, std::int64_t runs, std::int64_t width, float eps,
                     Buffer& x, Buffer& weight, Buffer& out) {
  encode_norm("rms_norm", device, commands, type, runs, width, eps, x, weight, out);
}

void encode_layer_norm(Device& device, Commands& commands, DType type, std::int64_t runs, std::int64_t width, float eps,
                       Buffer& x, Buffer& weight, Buffer& out) {
  encode_norm("layer_norm", device, commands, type, runs, width, eps, x, weight, out);
}

void encode_scale(Device& device, Commands& commands, DType type, std::int64_t elements, float factor, float soft_cap,
                  Buffer& x) {
  if (elements == 0) return;
  commands.dispatch_threads(
      pipeline_of(device, "scale", type), {busy_threads(elements), 1, 1}, {128, 1, 1},
      Arguments().buffer(0, x).bytes(1, static_cast<std::uint64_t>(elements)).bytes(2, factor).bytes(3, soft_cap));
}

void encode_scale_by_position(Device& device, Commands& commands, DType type, std::int64_t tokens, std::int64_t width,
                              float beta, float span, Buffer& positions, Buffer& x) {
  if (tokens == 0) return;
  const auto cols = static_cast<std::uint32_t>(width);
  commands.dispatch_threads(pipeline_of(device, "scale_by_position", type),
                            {cols, static_cast<std::uint32_t>(tokens), 1}, {128, 1, 1},
                            Arguments().buffer(0, x).buffer(1, positions).bytes(2, cols).bytes(3, beta).bytes(4, span));
}

void encode_select_rows(Device& device, Commands& commands, DType type, std::int64_t count, std::int64_t width,
                        Buffer& in, Buffer& rows, Buffer& out) {
  if (count == 0) return;
  const auto cols = static_cast<std::uint32_t>(width);
  commands.dispatch_threads(pipeline_of(device, "select_rows", type), {cols, static_cast<std::uint32_t>(count), 1},
                            {128, 1, 1}, Arguments().buffer(0, in).buffer(1, rows).buffer(2, out).bytes(3, cols));
}

void encode_join_rows(Device& device, Commands& commands, DType type, std::int64_t count, std::int64_t first_width,
                      std::int64_t second_width, Buffer& first, Buffer& second, Buffer& out) {
  if (count == 0) return;
  const auto left = static_cast<std::uint32_t>(first_width);
  const auto right = static_cast<std::uint32_t>(second_width);
  commands.dispatch_threads(
      pipeline_of(device, "join_rows", type), {left + right, static_cast<std::uint32_t>(count), 1}, {128, 1, 1},
      Arguments().buffer(0, first).buffer(1, second).buffer(2, out).bytes(3, left).bytes(4, right));
}

}  // namespace metal_marlin::msl
