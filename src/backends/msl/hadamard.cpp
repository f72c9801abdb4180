#include "backends/msl/hadamard.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "common/hadamard_params.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

constexpr std::uint32_t kMaxBlock = 4096;

// Of the factor that is no power of two; 0: there is no such matrix here.
std::uint32_t order_of(std::uint32_t block) {
  if (block < 2 || block > kMaxBlock) return 0;
  for (const std::uint32_t order : {1U, 12U, 20U, 28U}) {
    if (block % order == 0 && std::has_single_bit(block / order)) return order;
  }
  return 0;
}

}  // namespace

void encode_hadamard(Device& device, Commands& commands, DType type, std::int64_t rows, std::int64_t cols,
                     std::uint32_t block, HadamardDirection direction, Buffer& in, Buffer& out) {
  const std::uint32_t order = order_of(block);
  if (order == 0) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("hadamard: block is {}, expected 2^n, 12 2^n, 20 2^n or 28 2^n up to {}", block, kMaxBlock));
  }
  if (cols % block != 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("hadamard: rows of {} are no multiple of the block, {}", cols, block));
  }
  if (rows == 0 || cols == 0) return;
  const HadamardParams p{static_cast<std::uint32_t>(cols), block, order,
                         direction == HadamardDirection::kInverse ? 1U : 0U};
  const std::uint32_t threads = std::clamp((block / 2 + 31) / 32 * 32, 32U, 256U);
  commands.dispatch(device.pipeline("hadamard", fmt::format("hadamard_{}", shader_type(type))),
                    {p.cols / block, static_cast<std::uint32_t>(rows), 1}, {threads, 1, 1},
                    Arguments().buffer(0, in).buffer(1, out).bytes(2, p));
}

}  // namespace metal_marlin::msl
