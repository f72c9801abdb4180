// The architectures that llama.cpp has in GGUF files, by what differs from the most of them: names, orders and keys.
#pragma once

#include <string_view>
#include <vector>

#include "io/gguf_keys.h"
#include "io/json.h"

namespace metal_marlin {

// What tensors are called in a file, and in those of the reference implementation.
struct GgufName {
  std::string_view gguf;
  std::string_view hf;
};

struct GgufArchitecture {
  std::string_view name;  // general.architecture
  std::string_view model_type;
  std::string_view class_name;
  // Puts into the configuration what it alone has, and takes out what it has not.
  void (*add)(const GgufKeys& keys, Json& config) = nullptr;
  std::vector<std::string_view> keys = {};  // that are read, beside those of all
  std::vector<GgufName> names = {};         // of a layer's tensors, which count before those of all
  std::vector<GgufName> top_names = {};     // of tensors outside of layers, beside those of all
  std::string_view eps_key = "attention.layer_norm_rms_epsilon";
  bool pairs = false;     // rows of queries and keys lie by neighbours, not by halves
  bool one_more = false;  // norms lie with one added to their weights
  // After the keys that say how wide heads are: with one, layers without a window have other heads, by the keys without
  // it, and `add` says all of rotations.
  std::string_view head_suffix = {};
  bool partial = false;     // a part of each head may be rotated alone
  bool latent = false;      // attention is latent
  bool output_bias = true;  // the output has a bias where queries, keys and values have
};

// \throws Error naming the architecture, if it is none of these, or the key that it is missing from.
const GgufArchitecture& gguf_architecture(const Gguf& gguf);

}  // namespace metal_marlin
