#include "io/module_pattern.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace metal_marlin {

ModuleTargets::ModuleTargets(const std::vector<std::string>& targets) {
  for (const std::string& target : targets) {
    if (target.starts_with("re:")) {
      patterns_.emplace_back("^(?:" + target.substr(3) + ")", "quantization_config");
    } else if (target == "Linear") {
      linear_ = true;
    } else {
      names_.push_back(target);
    }
  }
}

ModuleTargets::Match ModuleTargets::match(const std::string& module) const {
  if (std::find(names_.begin(), names_.end(), module) != names_.end()) return Match::kName;
  if (std::any_of(patterns_.begin(), patterns_.end(), [&](const Regex& pattern) { return pattern.search(module); }))
    return Match::kPattern;
  return linear_ ? Match::kClass : Match::kNone;
}

int best_match(const std::vector<ModuleTargets>& lists, const std::string& module) {
  int best = -1;
  auto closest = ModuleTargets::Match::kNone;
  for (std::size_t i = 0; i < lists.size(); ++i) {
    const auto match = lists[i].match(module);
    if (match >= closest) continue;
    best = static_cast<int>(i);
    closest = match;
  }
  return best;
}

std::vector<std::string> names_of(const JsonObject& json, const char* key) {
  std::vector<std::string> out;
  if (!json.has(key)) return out;
  const Json& value = json.at(key);
  for (const Json& name : value.is_array() ? value : Json::array({value})) {
    if (!name.is_string()) json.wrong(key, "a list of names");
    out.push_back(name.get<std::string>());
  }
  return out;
}

}  // namespace metal_marlin
