// What expands latents to the keys and values of all heads (kv_b_proj), which llama.cpp has in two tensors.
#pragma once

#include <string>

#include "io/checkpoint.h"
#include "io/gguf.h"

namespace metal_marlin {

inline constexpr std::string_view kGgufKeysOfLatents = ".self_attn.k_b_proj.weight";
inline constexpr std::string_view kGgufValuesOfLatents = ".self_attn.v_b_proj.weight";

struct GgufExpansion {
  GgufTensor keys;    // [heads, rank, width of a key]
  GgufTensor values;  // [heads, width of a value, rank]
  std::string file;

  // [heads * (key + value), rank], of one type: that of both, or one that holds what either says.
  // \throws Error (kCorruptFile) naming what is missing, or does not fit.
  [[nodiscard]] WeightInfo describe(const std::string& name) const;
  [[nodiscard]] Weight load(ThreadPool& pool) const;

 private:
  [[nodiscard]] DType dtype() const;
};

}  // namespace metal_marlin
