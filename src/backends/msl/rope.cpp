#include "backends/msl/rope.h"

#include <fmt/format.h>

#include "metal_marlin/error.h"

namespace metal_marlin::msl {

namespace {

void check_rope(const RopeParams& params, const Buffer* k) {
  if (params.rotary_dim % 2 != 0 || params.first + params.rotary_dim > params.head_dim) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("rope: elements {} to {} of a head of {} cannot be rotated in pairs", params.first,
                            params.first + params.rotary_dim, params.head_dim));
  }
  if (params.k_heads != 0 && k == nullptr) throw Error(ErrorCode::kInvalidArgument, "rope: k heads but no k");
}

}  // namespace

void encode_rope(Device& device, Commands& commands, const RopeParams& params, DType type, std::int64_t tokens,
                 Buffer& q, Buffer* k, Buffer& frequencies, Buffer& positions) {
  check_rope(params, k);
  if (tokens == 0 || params.rotary_dim == 0) return;
  commands.dispatch_threads(
      device.pipeline("rope", fmt::format("rope_{}", shader_type(type))),
      {params.rotary_dim / 2, params.q_heads + params.k_heads, static_cast<std::uint32_t>(tokens)}, {32, 4, 1},
      Arguments()
          .buffer(0, q)
          .buffer(1, k != nullptr ? *k : q)
          .buffer(2, frequencies)
          .buffer(3, positions)
          .bytes(4, params));
}

void encode_norm_rope(Device& device, Commands& commands, const RopeParams& params, DType type, std::int64_t tokens,
                      Buffer& q, Buffer* k, Buffer& frequencies, Buffer& positions, const HeadNorms& norms) {
  check_rope(params, k);
  if (params.k_heads != 0 && norms.k == nullptr) throw Error(ErrorCode::kInvalidArgument, "rope: k heads but no norm");
  if (tokens == 0) return;
  commands.dispatch(device.pipeline("rope", fmt::format("norm_rope_{}", shader_type(type))),
                    {params.q_heads + params.k_heads, static_cast<std::uint32_t>(tokens), 1}, {32, 1, 1},
                    Arguments()
                        .buffer(0, q)
                        .buffer(1, k != nullptr ? *k : q)
                        .buffer(2, frequencies)
                        .buffer(3, positions)
                        .bytes(4, params)
                        .buffer(5, *norms.q)
                        .buffer(6, norms.k != nullptr ? *norms.k : *norms.q)
                        .bytes(7, norms.eps));
}

}  // namespace metal_marlin::msl
