#include "backends/msl/moe_dispatch.h"

#include <fmt/format.h>

namespace metal_marlin::msl {
namespace {

constexpr std::uint32_t kScanThreads = 128;  // as in the shader

}  // namespace

void encode_moe_groups(Device& device, Commands& commands, std::int64_t experts, std::int64_t tokens,
                       std::int64_t chosen, Buffer& ids, const MoeGroups& groups) {
  const auto count = static_cast<std::uint32_t>(experts);
  const auto assignments = static_cast<std::uint32_t>(tokens * chosen);
  if (count == 0 || assignments == 0) return;
  commands.dispatch(device.pipeline("moe_dispatch", "moe_count"), {count, 1, 1}, {kScanThreads, 1, 1},
                    Arguments().buffer(0, ids).buffer(1, *groups.counts).bytes(2, assignments));
  commands.dispatch(device.pipeline("moe_dispatch", "moe_offsets"), {1, 1, 1}, {32, 1, 1},
                    Arguments().buffer(0, *groups.counts).buffer(1, *groups.offsets).bytes(2, count));
  commands.dispatch(device.pipeline("moe_dispatch", "moe_scatter"), {count, 1, 1}, {kScanThreads, 1, 1},
                    Arguments()
                        .buffer(0, ids)
                        .buffer(1, *groups.offsets)
                        .buffer(2, *groups.order)
                        .buffer(3, *groups.places)
                        .bytes(4, assignments)
                        .bytes(5, count));
}

void encode_moe_gather(Device& device, Commands& commands, DType type, std::int64_t experts, std::int64_t tokens,
                       std::int64_t chosen, std::int64_t width, Buffer& x, const MoeGroups& groups, Buffer& out) {
  if (tokens * chosen == 0) return;
  const auto cols = static_cast<std::uint32_t>(width);
  commands.dispatch_threads(device.pipeline("moe_dispatch", fmt::format("moe_gather_{}", shader_type(type))),
                            {cols, static_cast<std::uint32_t>(tokens * chosen), 1}, {128, 1, 1},
                            Arguments()
                                .buffer(0, x)
                                .buffer(1, *groups.order)
                                .buffer(2, out)
                                .bytes(3, cols)
                                .bytes(4, static_cast<std::uint32_t>(chosen))
                                .buffer(5, *groups.offsets, static_cast<std::size_t>(experts) * sizeof(std::int32_t)));
}

void encode_moe_gated(Device& device, Commands& commands, std::int64_t experts, std::int64_t rows, std::int64_t width,
                      const GateParams& form, Buffer& ids, const MoeGroups& groups, Buffer& gate, Buffer& up,
                      Buffer& gate_biases, Buffer& up_biases) {
  if (rows == 0) return;
  const auto cols = static_cast<std::uint32_t>(width);
  commands.dispatch_threads(device.pipeline("moe_dispatch", "moe_gated"), {cols, static_cast<std::uint32_t>(rows), 1},
                            {128, 1, 1},
                            Arguments()
                                .buffer(0, gate)
                                .buffer(1, up)
                                .buffer(2, gate_biases)
                                .buffer(3, up_biases)
                                .buffer(4, ids)
                                .buffer(5, *groups.order)
                                .buffer(6, *groups.offsets, static_cast<std::size_t>(experts) * sizeof(std::int32_t))
                                .bytes(7, cols)
                                .bytes(8, form));
}

void encode_moe_combine(Device& device, Commands& commands, DType type, std::int64_t tokens, std::int64_t chosen,
                        std::int64_t width, Buffer& rows, const MoeGroups& groups, Buffer& weights, bool accumulate,
                        Buffer& y, const MoeBiases& biases) {
  if (tokens == 0) return;
  const bool biased = biases.biases != nullptr;
  const auto cols = static_cast<std::uint32_t>(width);
  commands.dispatch_threads(device.pipeline("moe_dispatch", fmt::format("moe_combine_{}", shader_type(type))),
                            {cols, static_cast<std::uint32_t>(tokens), 1}, {128, 1, 1},
                            Arguments()
                                .buffer(0, rows)
                                .buffer(1, *groups.places)
                                .buffer(2, weights)
                                .buffer(3, y)
                                .bytes(4, cols)
                                .bytes(5, static_cast<std::uint32_t>(chosen))
                                .bytes(6, std::uint32_t{accumulate})
                                .buffer(7, biased ? *biases.biases : weights)
                                .buffer(8, biased ? *biases.ids : *groups.places)
                                .bytes(9, std::uint32_t{biased}));
}

}  // namespace metal_marlin::msl
