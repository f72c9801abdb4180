// Which format each weight of a model becomes: an ordered list of rules, of which
// the first that fits a weight decides. Recipes are JSON files (docs/recipes.md);
// those in recipes/ are built in.
#pragma once

#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/regex.h"
#include "io/json.h"
#include "metal_marlin/format.h"
#include "metal_marlin/quantize.h"
#include "ops/plan.h"

namespace metal_marlin {

struct RecipeRule {
  std::optional<ModelPart> part;         // nothing: every linear layer of the blocks
  bool cold = false;                     // of experts: the cold ones alone
  bool prediction = false;               // of the layers for the next tokens alone
  std::optional<Regex> match;            // and its name is found by this
  std::optional<FormatSpec> spec;        // nothing: kept as it is
  std::optional<QuantizeMethod> method;  // nothing: the one that is asked for
};

struct Recipe {
  std::string description;
  // An expert is cold if it gets less than this share of its layer's mean of tokens.
  double cold_share = 0.5;
  std::vector<RecipeRule> rules;

  // The rule for a weight; null: none fits, it is kept. cold: whether its expert is.
  [[nodiscard]] const RecipeRule* rule(const PlannedWeight& weight, bool cold) const;
  // Its format; nothing: kept.
  [[nodiscard]] std::optional<FormatSpec> find(const PlannedWeight& weight, bool cold) const;
  [[nodiscard]] bool has_cold_rule() const;
};

// \throws Error naming `where` and the rule.
Recipe parse_recipe(const Json& json, const std::string& where);
// A built-in recipe by name, or a JSON file. \throws Error naming the built-in ones.
Recipe load_recipe(const std::string& name_or_path);

struct BuiltinRecipe {
  std::string_view name;
  std::string_view text;
};
std::span<const BuiltinRecipe> builtin_recipes();

}  // namespace metal_marlin
