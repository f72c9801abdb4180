#include "quantize/recipe.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "io/spec_json.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

struct ClassName {
  std::string_view name;
  std::optional<ModelPart> part;
  bool cold = false;
  bool prediction = false;
};
constexpr std::array<ClassName, 9> kClasses{{{"embedding", ModelPart::kEmbedding},
                                             {"head", ModelPart::kHead},
                                             {"attention", ModelPart::kAttention},
                                             {"feed-forward", ModelPart::kFeedForward},
                                             {"shared expert", ModelPart::kSharedExpert},
                                             {"expert", ModelPart::kExpert},
                                             {"cold expert", ModelPart::kExpert, true},
                                             {"prediction", std::nullopt, false, true},
                                             {"linear", std::nullopt}}};

FormatSpec spec_of(const JsonObject& rule) {
  const FormatSpec spec = parse_spec(rule, true);
  if (!format_info(spec.format).selectable) rule.wrong("format", "a format that can be written");
  if (spec.rotation != 0 && rule.string_or("method", "") != "mr-gptq")
    rule.wrong("rotation", "no rotation, but with method mr-gptq");
  return spec;
}

RecipeRule parse_rule(const JsonObject& json) {
  for (const auto& [key, value] : json.json().items()) {
    constexpr std::array known{"class", "match",  "format",   "group",   "scale_type",
                               "zero",  "method", "rotation", "sparsity"};
    if (std::find(known.begin(), known.end(), key) == known.end())
      json.wrong(key.c_str(), fmt::format("no such field; known: {}", fmt::join(known, ", ")));
  }
  RecipeRule rule;
  const std::string name = json.string_or("class", "linear");
  const auto* const found =
      std::find_if(kClasses.begin(), kClasses.end(), [&](const ClassName& entry) { return entry.name == name; });
  if (found == kClasses.end()) {
    json.wrong("class",
               "embedding, head, attention, feed-forward, shared expert, expert, cold expert, prediction or linear");
  }
  rule.part = found->part;
  rule.cold = found->cold;
  rule.prediction = found->prediction;
  if (json.has("match")) rule.match.emplace(json.string("match"), json.where() + ": match");
  if (json.has("method")) {
    try {
      rule.method = parse_method(json.string("method"));
    } catch (const Error&) {
      json.wrong("method", "rtn, rtn-weighted, gptq or mr-gptq");
    }
  }
  const std::string format = json.string("format");
  if (format != "keep") rule.spec = spec_of(json);
  return rule;
}

bool fits(const RecipeRule& rule, const PlannedWeight& weight, bool cold) {
  if (rule.part ? weight.role.part != *rule.part : weight.embedding_or_head()) return false;
  return (!rule.cold || cold) && (!rule.prediction || weight.prediction) &&
         (!rule.match || rule.match->search(weight.name));
}

}  // namespace

const RecipeRule* Recipe::rule(const PlannedWeight& weight, bool cold) const {
  const auto found = std::find_if(rules.begin(), rules.end(),
                                  [&](const RecipeRule& candidate) { return fits(candidate, weight, cold); });
  return found == rules.end() ? nullptr : &*found;
}

std::optional<FormatSpec> Recipe::find(const PlannedWeight& weight, bool cold) const {
  const RecipeRule* const found = rule(weight, cold);
  return found == nullptr ? std::nullopt : found->spec;
}

bool Recipe::has_cold_rule() const {
  return std::any_of(rules.begin(), rules.end(), [](const RecipeRule& rule) { return rule.cold; });
}

Recipe parse_recipe(const Json& json, const std::string& where) {
  const JsonObject object(json, where);
  Recipe recipe;
  recipe.description = object.string_or("description", "");
  recipe.cold_share = object.number_or("cold_share", recipe.cold_share);
  if (!(recipe.cold_share >= 0)) object.wrong("cold_share", "a number of at least 0");
  const Json& rules = object.at("rules");
  if (!rules.is_array() || rules.empty()) object.wrong("rules", "a list of rules");
  for (std::size_t i = 0; i < rules.size(); ++i)
    recipe.rules.push_back(parse_rule(JsonObject(rules[i], fmt::format("{}: rule {}", where, i + 1))));
  return recipe;
}

Recipe load_recipe(const std::string& name_or_path) {
  std::string names;
  for (const BuiltinRecipe& recipe : builtin_recipes()) {
    if (recipe.name == name_or_path) return parse_recipe(parse_json(recipe.text, name_or_path), name_or_path);
    names += fmt::format("{}{}", names.empty() ? "" : ", ", recipe.name);
  }
  if (!std::filesystem::exists(name_or_path)) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("recipe '{}': neither a file nor one of {}", name_or_path, names));
  }
  return parse_recipe(read_json_file(name_or_path), name_or_path);
}

}  // namespace metal_marlin
