// Which format each weight gets when the mean number of bits is given: what a format costs a weight in
// bits and in divergence is measured (sensitivity.h), and the sum of divergences made least.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "io/json.h"
#include "metal_marlin/format.h"

namespace metal_marlin {

// Weights that get one format: a linear layer's, or those of a gate and its up projection.
struct AllocationUnit {
  std::vector<std::string> weights;
  std::int64_t elements = 0;
  struct Point {
    FormatSpec spec;
    double bits = 0;  // of all its elements
    double loss = 0;  // share of the model's KL divergence, about
  };
  std::vector<Point> points;
};

struct Allocation {
  std::map<std::string, FormatSpec> formats;
  double bits_per_weight = 0;
  double loss = 0;
};

// The least loss of at most so many bits a weight, over the lower convex hulls of the points: a
// Lagrangian whose factor is found by bisection, and what it leaves over is spent where it gains most.
// \throws Error (kInvalidArgument) when no allocation is so small.
Allocation allocate(const std::vector<AllocationUnit>& units, double bits_per_weight);

// Formats that a weight may get, where none are named.
std::vector<FormatSpec> default_candidates();

Json curves_json(const std::vector<AllocationUnit>& units);
// \throws Error (kCorruptFile) naming `where` and the field.
std::vector<AllocationUnit> parse_curves(const Json& json, const std::string& where);

}  // namespace metal_marlin
