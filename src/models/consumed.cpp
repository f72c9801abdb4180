#include "models/consumed.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <vector>

#include "io/tensor_names.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// How others round activations and keep the cache.
constexpr std::array<std::string_view, 7> kHarmless{".input_scale",       ".output_scale",     ".k_scale",
                                                    ".v_scale",           ".input_zero_point", ".output_zero_point",
                                                    ".input_global_scale"};

// What follows from the configuration.
constexpr std::string_view kRotations = ".rotary_emb.";

constexpr std::string_view kExpert = ".experts";

}  // namespace

void require_consumed(const Checkpoint& checkpoint, const Plan& plan,
                      const std::function<void(const std::string&)>& notice) {
  std::set<std::string, std::less<>> used;
  std::set<std::string, std::less<>> modules;
  std::set<std::string, std::less<>> layers;
  std::vector<std::string> others;
  for (const PlannedWeight& weight : planned_weights(plan)) {
    used.insert(weight.name);
    modules.insert(weight.name.substr(0, weight.name.rfind('.')));
    // What is stored of all experts together, or of one that the model has no place for.
    if (weight.expert >= 0) {
      const std::string block = weight.name.substr(0, weight.name.find(kExpert));
      modules.insert({block + ".experts", block + ".shared_experts"});
    }
    layers.emplace(layer_of(weight.name));
  }
  for (const WeightInfo& info : checkpoint.weights()) {
    if (used.contains(info.name) || element_count(info.shape) == 0) continue;  // of shared experts that are none
    const std::string_view name = info.name;
    const auto ends = [&](std::string_view end) { return name.ends_with(end); };
    if (std::any_of(kHarmless.begin(), kHarmless.end(), ends)) continue;
    for (std::size_t dot = name.rfind('.'); dot != std::string_view::npos && dot > 0; dot = name.rfind('.', dot - 1)) {
      if (!modules.contains(name.substr(0, dot))) continue;
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: tensor {} is of a module that the model has, but nothing in its configuration makes "
                              "use of it",
                              checkpoint.where(info.name), checkpoint.name_in_file(info.name)));
    }
    if (name.find(kRotations) != std::string_view::npos) continue;
    if (!layer_of(name).empty() && layers.contains(layer_of(name))) others.push_back(info.name);
  }
  if (others.empty()) return;
  const std::string what =
      fmt::format("{}: {} tensor{} of its layers that the architecture has no place for, such as {}",
                  checkpoint.where(others.front()), others.size(), others.size() > 1 ? "s" : "",
                  checkpoint.name_in_file(others.front()));
  if (checkpoint.kind() == "GGUF") throw Error(ErrorCode::kUnsupported, what);
  if (notice) notice(what + ", are left out");
}

}  // namespace metal_marlin
