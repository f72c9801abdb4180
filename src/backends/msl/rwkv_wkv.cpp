#include "backends/msl/rwkv_wkv.h"

#include <fmt/format.h>

#include "common/rwkv_params.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

constexpr std::int64_t kMaxDim = 128;

// The kernel of the smallest head that holds this one.
const Pipeline& pipeline_of(Device& device, const char* kernel, DType type, const WkvShape& shape) {
  if (shape.dim < 1 || shape.dim > kMaxDim) {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: heads of {}, expected 1 to {}", kernel, shape.dim, kMaxDim));
  }
  return device.pipeline("rwkv_wkv", fmt::format("{}_{}_{}", kernel, shader_type(type), shape.dim <= 64 ? 64 : 128));
}

WkvParams params_of(const WkvShape& shape, bool decay_of_tokens) {
  return {static_cast<std::uint32_t>(shape.heads), static_cast<std::uint32_t>(shape.dim),
          decay_of_tokens ? static_cast<std::uint32_t>(shape.heads * shape.dim) : 0U};
}

void dispatch(Commands& commands, const Pipeline& pipeline, const WkvShape& shape, const Arguments& arguments) {
  if (shape.sequences == 0 || shape.heads == 0) return;
  commands.dispatch(pipeline, {static_cast<std::uint32_t>(shape.heads), static_cast<std::uint32_t>(shape.sequences), 1},
                    {static_cast<std::uint32_t>((shape.dim + 31) / 32 * 32), 1, 1}, arguments);
}

}  // namespace

void encode_wkv4(Device& device, Commands& commands, DType type, std::int64_t sequences, std::int64_t channels,
                 Buffer& k, Buffer& v, Buffer& w, Buffer& u, Buffer& state, Buffer& y, Buffer& starts) {
  if (sequences == 0 || channels == 0) return;
  const auto width = static_cast<std::uint32_t>(channels);
  commands.dispatch_threads(device.pipeline("rwkv_wkv", fmt::format("wkv4_{}", shader_type(type))),
                            {width, static_cast<std::uint32_t>(sequences), 1}, {64, 1, 1},
                            Arguments()
                                .buffer(0, k)
                                .buffer(1, v)
                                .buffer(2, w)
                                .buffer(3, u)
                                .buffer(4, state)
                                .buffer(5, y)
                                .buffer(6, starts)
                                .bytes(7, width));
}

void encode_wkv6(Device& device, Commands& commands, DType type, const WkvShape& shape, bool decay_of_tokens, Buffer& r,
                 Buffer& k, Buffer& v, Buffer& w, Buffer& u, Buffer& state, Buffer& y, Buffer& starts) {
  dispatch(commands, pipeline_of(device, "wkv6", type, shape), shape,
           Arguments()
               .buffer(0, r)
               .buffer(1, k)
               .buffer(2, v)
               .buffer(3, w)
               .buffer(4, u)
               .buffer(5, state)
               .buffer(6, y)
               .buffer(7, starts)
               .bytes(8, params_of(shape, decay_of_tokens)));
}

void encode_wkv7(Device& device, Commands& commands, DType type, const WkvShape& shape, Buffer& r, Buffer& w, Buffer& k,
                 Buffer& v, Buffer& a, Buffer& b, Buffer& state, Buffer& y, Buffer& starts) {
  dispatch(commands, pipeline_of(device, "wkv7", type, shape), shape,
           Arguments()
               .buffer(0, r)
               .buffer(1, w)
               .buffer(2, k)
               .buffer(3, v)
               .buffer(4, a)
               .buffer(5, b)
               .buffer(6, state)
               .buffer(7, y)
               .buffer(8, starts)
               .bytes(9, params_of(shape, true)));
}

}  // namespace metal_marlin::msl
