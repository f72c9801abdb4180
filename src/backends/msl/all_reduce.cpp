#include "backends/msl/all_reduce.h"

#include <fmt/format.h>

#include <algorithm>

#include "metal_marlin/error.h"

namespace metal_marlin::msl {

void encode_all_reduce(Device& device, Commands& commands, DType type, ReduceOp op, std::int64_t shards,
                       std::int64_t elements, Buffer& in, Buffer& out) {
  if (shards < 1) throw Error(ErrorCode::kInvalidArgument, "all_reduce: there are no shards");
  if (elements == 0) return;
  commands.dispatch_threads(device.pipeline("all_reduce", fmt::format("all_reduce_{}", shader_type(type))),
                            {busy_threads(elements), 1, 1}, {128, 1, 1},
                            Arguments()
                                .buffer(0, in)
                                .buffer(1, out)
                                .bytes(2, static_cast<std::uint64_t>(elements))
                                .bytes(3, static_cast<std::uint32_t>(shards))
                                .bytes(4, static_cast<std::uint32_t>(op)));
}

void encode_ring_step(Device& device, Commands& commands, ReduceOp op, std::int64_t elements, std::int64_t ranks,
                      Buffer& chunk, Buffer& incoming) {
  if (elements == 0) return;
  commands.dispatch_threads(device.pipeline("all_reduce", "ring_step"), {busy_threads(elements), 1, 1}, {128, 1, 1},
                            Arguments()
                                .buffer(0, chunk)
                                .buffer(1, incoming)
                                .bytes(2, static_cast<std::uint64_t>(elements))
                                .bytes(3, static_cast<std::uint32_t>(op))
                                .bytes(4, static_cast<std::uint32_t>(ranks)));
}

}  // namespace metal_marlin::msl
