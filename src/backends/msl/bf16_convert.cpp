#include "backends/msl/bf16_convert.h"

#include <fmt/format.h>

#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

const char* kernel_of(DType from, DType to, bool at_random) {
  if (at_random) return from == DType::kF32 && to == DType::kBf16 ? "bf16_from_float_at_random" : nullptr;
  if (to == DType::kBf16)
    return from == DType::kF32 ? "bf16_from_float" : from == DType::kF16 ? "bf16_from_half" : nullptr;
  if (from != DType::kBf16) return nullptr;
  return to == DType::kF32 ? "float_from_bf16" : to == DType::kF16 ? "half_from_bf16" : nullptr;
}

}  // namespace

void encode_bf16_convert(Device& device, Commands& commands, DType from, DType to, std::int64_t elements, Buffer& in,
                         Buffer& out, std::optional<std::uint32_t> seed) {
  const char* const kernel = kernel_of(from, to, seed.has_value());
  if (kernel == nullptr) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("bf16_convert: no conversion{} from {} to {}",
                                                         seed ? " at random" : "", dtype_name(from), dtype_name(to)));
  }
  if (elements == 0) return;
  const auto count = static_cast<std::uint32_t>(elements);
  Arguments arguments;
  arguments.buffer(0, in).buffer(1, out);
  if (seed) arguments.bytes(2, *seed);
  commands.dispatch_threads(device.pipeline("bf16_compat", kernel), {count, 1, 1}, {128, 1, 1}, arguments);
}

}  // namespace metal_marlin::msl
