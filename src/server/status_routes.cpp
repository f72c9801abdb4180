// Routes that tell about the server.
#include <fmt/chrono.h>
#include <fmt/format.h>

#include "metal_marlin/inspect.h"
#include "server/api_error.h"
#include "server/page.h"
#include "server/routes.h"

namespace metal_marlin::server {
namespace {

// By OpenAI's names, and then by Anthropic's: clients of either read what they know.
OrderedJson describe_model(const ModelStatus& model) {
  const OrderedJson most = model.context ? OrderedJson(*model.context - 1) : OrderedJson();
  OrderedJson value = {{"id", model.name},
                       {"object", "model"},
                       {"created", model.created},
                       {"owned_by", "metal-marlin"},
                       {"max_model_len", model.context ? OrderedJson(*model.context) : OrderedJson()},
                       {"state", model.state},
                       {"type", "model"},
                       {"display_name", model.name},
                       {"created_at", fmt::format("{:%Y-%m-%dT%H:%M:%S}Z", fmt::gmtime(model.created))},
                       {"lifecycle", "active"},
                       {"max_input_tokens", most},
                       {"max_tokens", most}};
  if (!model.parent.empty()) value["parent"] = model.parent;
  if (!model.failure.empty()) value["failure"] = model.failure;
  return value;
}

void answer_json(const Call& call, int status, const OrderedJson& value) {
  call.exchange->respond(status, "application/json", json_text(value));
}

}  // namespace

void answer_models(Service& service, const Call& call) {
  OrderedJson list = OrderedJson::array();
  for (const ModelStatus& model : service.models.all()) list.push_back(describe_model(model));
  const OrderedJson first = list.front()["id"];
  const OrderedJson last = list.back()["id"];
  answer_json(
      call, 200,
      {{"object", "list"}, {"data", std::move(list)}, {"has_more", false}, {"first_id", first}, {"last_id", last}});
}

void answer_model(Service& service, const Call& call) {
  answer_json(
      call, 200,
      describe_model(service.models.status(call.request().path.substr(std::string_view("/v1/models/").size()))));
}

void answer_health(Service& service, const Call& call) {
  for (const ModelLease& model : service.models.loaded()) {
    if (!model->engine->healthy()) {
      throw ApiError(503, fmt::format("model {}: {}", model->name, model->engine->failure()), {}, "engine_failed");
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

void answer_page(Service&, const Call& call) {
  const std::string& path = call.request().path;
  const PageFile* const file = page_file(path);
  if (file == nullptr) throw ApiError(404, fmt::format("there is nothing at {}", path), {}, "not_found");
  for (const auto& [name, value] : page_header_fields) call.exchange->headers.emplace_back(name, value);
  call.exchange->respond(200, file->content_type, std::string(file->text));
}

}  // namespace metal_marlin::server
