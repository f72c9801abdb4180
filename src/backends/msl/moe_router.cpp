#include "backends/msl/moe_router.h"

#include <fmt/format.h>

#include "common/experts_params.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl {
namespace {

void expect(bool good, const char* option, std::uint32_t found, const std::string& expected) {
  if (good) return;
  throw Error(ErrorCode::kInvalidArgument, fmt::format("moe_router: {} is {}, expected {}", option, found, expected));
}

void check_router(const RouterOptions& o) {
  expect(o.experts >= 1 && o.experts <= 1024, "experts", o.experts, "1 to 1024");
  expect(o.groups >= 1 && o.groups <= 32 && o.experts % o.groups == 0, "groups", o.groups,
         fmt::format("a divisor of {} experts up to 32", o.experts));
  expect(o.group_limit >= 1 && o.group_limit <= o.groups, "group_limit", o.group_limit,
         fmt::format("1 to {} groups", o.groups));
  const std::uint32_t size = o.experts / o.groups;
  expect(o.group_best == 1 || (o.group_best == 2 && (o.groups == 1 || size >= 2)), "group_best", o.group_best,
         "1, or 2 of groups that have as many");
  const std::uint32_t most = std::min(32U, size * o.group_limit);
  expect(o.chosen >= 1 && o.chosen <= most, "chosen", o.chosen, fmt::format("1 to {}", most));
}

}  // namespace

void encode_moe_router(Device& device, Commands& commands, const RouterOptions& options, std::int64_t tokens,
                       Buffer& logits, const RouterVectors& vectors, Buffer& ids, Buffer& weights) {
  check_router(options);
  if (tokens == 0) return;
  const RouterParams p{options.experts,
                       options.chosen,
                       options.groups,
                       options.group_limit,
                       options.group_best,
                       options.sigmoid ? 1U : 0U,
                       vectors.bias != nullptr ? 1U : 0U,
                       options.normalize ? 1U : 0U,
                       options.scale,
                       vectors.expert_scales != nullptr ? 1U : 0U};
  commands.dispatch(device.pipeline("moe_router", "moe_router"), {static_cast<std::uint32_t>(tokens), 1, 1}, {32, 1, 1},
                    Arguments()
                        .buffer(0, logits)
                        .buffer(1, vectors.bias != nullptr ? *vectors.bias : logits)
                        .buffer(2, ids)
                        .buffer(3, weights)
                        .bytes(4, p)
                        .buffer(5, vectors.expert_scales != nullptr ? *vectors.expert_scales : logits));
}

}  // namespace metal_marlin::msl
