#include "backends/msl/low_rank.h"

#include <algorithm>

#include "common/low_rank_params.h"

namespace metal_marlin::msl {
namespace {

LowRankParams low_rank_params(std::int64_t in, std::int64_t out, std::int64_t most_rank) {
  return {to_u32(in), to_u32(out), to_u32(most_rank)};
}

}  // namespace

LowRankStack::LowRankStack(Device& device, std::span<const LowRank* const> pairs, std::int64_t in, std::int64_t out)
    : in_(in), out_(out) {
  std::vector<LowRankEntry> entries;
  std::vector<float> a;
  std::vector<float> b;
  std::uint32_t first = 0;
  for (const LowRank* const pair : pairs) {
    if (pair == nullptr) {
      entries.push_back({first, 0, 0, 0});
      continue;
    }
    entries.push_back({first, to_u32(pair->rank), pair->scale, 0});
    first += to_u32(pair->rank);
    most_rank_ = std::max(most_rank_, pair->rank);
    a.insert(a.end(), pair->a.begin(), pair->a.end());
    for (std::int64_t r = 0; r < pair->rank; ++r) {
      for (std::int64_t row = 0; row < out; ++row) b.push_back(pair->b[static_cast<std::size_t>(row * pair->rank + r)]);
    }
  }
  entries_ = device.allocate_with(entries);
  a_ = device.allocate_with(a);
  b_ = device.allocate_with(b);
}

void LowRankStack::encode(Device& device, Commands& commands, const Call& call) const {
  if (call.rows == 0) return;
  commands.dispatch(device.pipeline("low_rank", "low_rank_down"), {to_u32(most_rank_), to_u32(call.rows), 1},
                    {32, 1, 1},
                    Arguments()
                        .buffer(0, *call.in)
                        .buffer(1, *call.adapters)
                        .buffer(2, *entries_)
                        .buffer(3, *a_)
                        .buffer(4, *call.inner)
                        .bytes(5, low_rank_params(in_, out_, most_rank_)));
  encode_up(device, commands, call);
}

void LowRankStack::encode_rows(Device& device, Commands& commands, const Call& call) const {
  if (call.rows == 0) return;
  commands.dispatch_threads(device.pipeline("low_rank", "low_rank_look_up"), {to_u32(most_rank_), to_u32(call.rows), 1},
                            {32, 1, 1},
                            Arguments()
                                .buffer(0, *call.in)
                                .buffer(1, *call.adapters)
                                .buffer(2, *entries_)
                                .buffer(3, *a_)
                                .buffer(4, *call.inner)
                                .bytes(5, low_rank_params(in_, out_, most_rank_)));
  encode_up(device, commands, call);
}

void LowRankStack::encode_up(Device& device, Commands& commands, const Call& call) const {
  commands.dispatch_threads(device.pipeline("low_rank", "low_rank_up"), {to_u32(out_), to_u32(call.rows), 1},
                            {128, 1, 1},
                            Arguments()
                                .buffer(0, *call.inner)
                                .buffer(1, *call.adapters)
                                .buffer(2, *entries_)
                                .buffer(3, *b_)
                                .buffer(4, *call.out)
                                .bytes(5, low_rank_params(in_, out_, most_rank_)));
}

}  // namespace metal_marlin::msl
