#include "models/consumed.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// How others round activations and keep the cache.
constexpr std::array<std::string_view, 7> kHarmless{".input_scale",       ".output_scale",     ".k_scale",
                                                    ".v_scale",           ".input_zero_point", ".output_zero_point",
                                                    ".input_global_scale"};

constexpr std::string_view kExpert = ".experts";

}  // namespace

void require_consumed(const Checkpoint& checkpoint, const Plan& plan) {
  std::set<std::string, std::less<>> used;
  std::set<std::string, std::less<>> modules;
  for (const PlannedWeight& weight : planned_weights(plan)) {
    used.insert(weight.name);
    modules.insert(weight.name.substr(0, weight.name.rfind('.')));
    // What is stored of all experts together, or of one that the model has no place for.
    if (weight.expert >= 0) modules.insert(weight.name.substr(0, weight.name.find(kExpert) + kExpert.size()));
  }
  for (const WeightInfo& info : checkpoint.weights()) {
    if (used.contains(info.name)) continue;
    const std::string_view name = info.name;
    const auto ends = [&](std::string_view end) { return name.ends_with(end); };
    if (std::any_of(kHarmless.begin(), kHarmless.end(), ends)) continue;
    for (std::size_t dot = name.rfind('.'); dot != std::string_view::npos && dot > 0; dot = name.rfind('.', dot - 1)) {
      if (!modules.contains(name.substr(0, dot))) continue;
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: tensor {} is of a module that the model has, but nothing in its configuration makes "
                              "use of it",
                              checkpoint.where(info.name), info.name));
    }
  }
}

}  // namespace metal_marlin
