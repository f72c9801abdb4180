// How quantization configurations name modules.
#pragma once

#include <string>
#include <vector>

#include "base/regex.h"
#include "io/json.h"

namespace metal_marlin {

// compressed-tensors' lists of modules: names, after "re:" patterns that are anchored at the beginning, or "Linear".
class ModuleTargets {
 public:
  // \throws Error (kInvalidArgument) for a pattern that is none.
  explicit ModuleTargets(const std::vector<std::string>& targets);

  enum class Match : std::uint8_t { kName, kPattern, kClass, kNone };
  // The closest one of the list.
  [[nodiscard]] Match match(const std::string& module) const;

 private:
  std::vector<std::string> names_;
  std::vector<Regex> patterns_;
  bool linear_ = false;
};

// Which of the lists says the most about a module, the first of equals; -1: none.
int best_match(const std::vector<ModuleTargets>& lists, const std::string& module);

// A field that is a list of names, or one; nothing when it is absent. \throws Error naming the field.
std::vector<std::string> names_of(const JsonObject& json, const char* key);

}  // namespace metal_marlin
