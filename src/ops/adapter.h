// What adapters of low rank (LoRA, arXiv 2106.09685) add to a plan's products.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace metal_marlin {

// Which of a model's adapters a sequence has; kNoAdapter: the model as it is.
inline constexpr int kNoAdapter = -1;

// out += b (scale a in)
struct LowRank {
  std::int64_t rank = 0;
  float scale = 1;
  std::vector<float> a;  // [rank][in]; of an embedding [vocab][rank]: rows that are looked up
  std::vector<float> b;  // [out][rank]
};

struct Adapter {
  std::string name;
  std::map<std::string, LowRank> linears;     // by the weights of LinearOps
  std::map<std::string, LowRank> embeddings;  // and of EmbeddingOps
};

// What they take in memory, at most: backends fill ranks and rows up to whole blocks.
std::size_t adapter_bytes(std::span<const Adapter> adapters);

}  // namespace metal_marlin
