// Routes that tell about the server.
#include <fmt/format.h>

#include "metal_marlin/inspect.h"
#include "server/api_error.h"
#include "server/routes.h"

namespace metal_marlin::server {
namespace {

OrderedJson describe_model(const ServedModel& model) {
  return {{"id", model.name},
          {"object", "model"},
          {"created", model.created},
          {"owned_by", "metal-marlin"},
          {"max_model_len", model.engine->plan().context}};
}

void answer_json(const Call& call, int status, const OrderedJson& value) {
  call.exchange->respond(status, "application/json", json_text(value));
}

}  // namespace

void answer_models(Service& service, const Call& call) {
  OrderedJson list = OrderedJson::array();
  for (const ServedModel& model : service.models) list.push_back(describe_model(model));
  answer_json(call, 200, {{"object", "list"}, {"data", std::move(list)}});
}

void answer_model(Service& service, const Call& call) {
  answer_json(call, 200,
              describe_model(service.model(call.request().path.substr(std::string_view("/v1/models/").size()))));
}

void answer_health(Service& service, const Call& call) {
  for (const ServedModel& model : service.models) {
    if (!model.engine->healthy()) {
      throw ApiError(503, fmt::format("model {}: {}", model.name, model.engine->failure()), {}, "engine_failed");
    }
  }
  answer_json(call, 200, {{"status", "ok"}});
}

void answer_ready(Service& service, const Call& call) {
  refuse_while_draining(service);
  answer_health(service, call);
}

void answer_version(Service&, const Call& call) {
  answer_json(call, 200, {{"version", version()}});
}

void answer_metrics(Service& service, const Call& call) {
  call.exchange->respond(200, "text/plain; version=0.0.4; charset=utf-8",
                         service.metrics.text(service.models, service.log.lost()));
}

}  // namespace metal_marlin::server
