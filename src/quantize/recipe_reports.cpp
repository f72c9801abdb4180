#include <nlohmann/json.hpp>

#include "formats/packed_matrix.h"
#include "io/dtype.h"
#include "io/json.h"
#include "metal_marlin/quantize.h"
#include "models/architectures.h"
#include "ops/plan.h"
#include "quantize/recipe.h"

namespace metal_marlin {
namespace {

std::size_t quantized_bytes(const Plan& plan, const Recipe& recipe, bool cold) {
  std::size_t bytes = 0;
  for (const PlannedWeight& planned : planned_weights(plan)) {
    const auto spec = planned.quantizable ? recipe.find(planned, cold) : std::nullopt;
    bytes += spec ? PackedLayout(*spec, planned.shape[0], planned.shape[1]).total_bytes()
                  : static_cast<std::size_t>(*element_count(planned.shape)) * 2;
  }
  return bytes;
}

}  // namespace

std::vector<RecipeReport> recipe_reports() {
  std::vector<RecipeReport> out;
  for (const BuiltinRecipe& builtin : builtin_recipes()) {
    const std::string name(builtin.name);
    const Json json = parse_json(builtin.text, name);
    const Recipe recipe = parse_recipe(json, name);
    for (const Json& model : json.at("models")) {
      RecipeReport report;
      report.model = model.at("name").get<std::string>();
      report.recipe = name;
      const Plan plan = build_plan(parse_model_config(model.at("config"), nullptr, report.model));
      for (const PlannedWeight& planned : planned_weights(plan)) report.weights += *element_count(planned.shape);
      report.source_bytes = static_cast<std::size_t>(report.weights) * 2;
      report.bytes = quantized_bytes(plan, recipe, false);
      report.bytes_all_cold = quantized_bytes(plan, recipe, true);
      out.push_back(std::move(report));
    }
  }
  return out;
}

}  // namespace metal_marlin
