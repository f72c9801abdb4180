// Rotations as GGUF's keys and tensors tell of them.
#pragma once

#include "io/gguf_keys.h"
#include "io/json.h"

namespace metal_marlin {

// Divisors of each pair's frequency; nothing where there is no such tensor. \throws Error (kCorruptFile) naming it.
std::vector<float> gguf_rope_factors(const Gguf& gguf, std::string_view name, std::int64_t pairs);

// A part of a head of which so many elements are, rounded down as the reference implementation does.
double gguf_rotated_part(std::int64_t rotated, std::int64_t head_dim);

// rope_parameters of config.json. rotated: elements of a head that are rotated, of so many.
Json gguf_rope_parameters(const GgufKeys& keys, std::int64_t rotated, std::int64_t head_dim);

}  // namespace metal_marlin
