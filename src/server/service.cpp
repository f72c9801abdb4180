#include "server/service.h"

namespace metal_marlin::server {

const ServedModel& Service::model(const Call& call, const std::string& name) {
  return models.use(name, *call.models);
}

}  // namespace metal_marlin::server
