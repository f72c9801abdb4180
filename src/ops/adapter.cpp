#include "ops/adapter.h"

#include "base/round_up.h"

namespace metal_marlin {
namespace {

constexpr std::int64_t kWholeBlock = 32;

std::size_t bytes_of(const LowRank& pair) {
  const std::int64_t rank = round_up(pair.rank, kWholeBlock);
  const auto in = static_cast<std::int64_t>(pair.a.size()) / pair.rank;
  const auto out = static_cast<std::int64_t>(pair.b.size()) / pair.rank;
  return static_cast<std::size_t>(rank * (round_up(in, kWholeBlock) + round_up(out, kWholeBlock))) * sizeof(float);
}

}  // namespace

std::size_t adapter_bytes(std::span<const Adapter> adapters) {
  std::size_t bytes = 0;
  for (const Adapter& adapter : adapters) {
    for (const auto& [weight, pair] : adapter.linears) bytes += bytes_of(pair);
    for (const auto& [weight, pair] : adapter.embeddings) bytes += bytes_of(pair);
  }
  return bytes;
}

}  // namespace metal_marlin
