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

// Of the model and its layers for the next tokens, each once.
std::vector<PlannedWeight> all_weights(const ModelConfig& config) {
  std::vector<PlannedWeight> out = planned_weights(build_plan(config));
  for (std::int64_t i = 0; i < config.mtp_layers; ++i) {
    for (PlannedWeight& weight : planned_weights(build_prediction_plan(config, i))) {
      if (weight.prediction) out.push_back(std::move(weight));
    }
  }
  return out;
}

std::size_t quantized_bytes(std::span<const PlannedWeight> weights, const Recipe& recipe, bool cold) {
  std::size_t bytes = 0;
  for (const PlannedWeight& planned : weights) {
    const auto spec = planned.quantizable ? recipe.find(planned, cold && !planned.prediction) : std::nullopt;
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
      const std::vector<PlannedWeight> weights =
          all_weights(parse_model_config(model.at("config"), nullptr, report.model));
      for (const PlannedWeight& planned : weights) report.weights += *element_count(planned.shape);
      report.source_bytes = static_cast<std::size_t>(report.weights) * 2;
      report.bytes = quantized_bytes(weights, recipe, false);
      report.bytes_all_cold = quantized_bytes(weights, recipe, true);
      out.push_back(std::move(report));
    }
  }
  return out;
}

}  // namespace metal_marlin
