#include "server/service.h"

#include <fmt/format.h>

#include "server/api_error.h"

namespace metal_marlin::server {

const ServedModel& Service::model(const std::string& name) const {
  if (name.empty() && models.size() == 1) return models.front();
  std::string known;
  for (const ServedModel& model : models) {
    if (model.name == name) return model;
    known += (known.empty() ? "" : ", ") + model.name;
  }
  if (name.empty()) throw ApiError(400, fmt::format("model is missing, expected one of {}", known), "model");
  throw ApiError(404, fmt::format("model {} is not served here; there is {}", name, known), "model", "model_not_found");
}

}  // namespace metal_marlin::server
