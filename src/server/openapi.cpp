// /openapi.json: what the routes take and give, for programs.
#include <fmt/format.h>

#include <array>
#include <utility>

#include "metal_marlin/inspect.h"
#include "server/json_text.h"
#include "server/openapi_schemas.h"
#include "server/routes.h"
#include "server/sampling_fields.h"

namespace metal_marlin::server {
namespace {

using Statuses = std::vector<std::pair<const char*, const char*>>;

// What is answered beside 200.
Statuses statuses_of(const Route& route, bool takes_body, bool computes) {
  Statuses all = {{"400", "The request is not one that can be answered; param names the field."},
                  {"403", "The Host header names another machine."}};
  if (!route.open) all.emplace_back("401", "The API key is missing or wrong.");
  const bool acts = route.answer == answer_slot;
  if (takes_body || std::string_view(route.path).ends_with('/') || route.answer == answer_slots)
    all.emplace_back("404", acts ? "There is no such slot, file or model." : "The model is not served here.");
  if (takes_body) {
    all.emplace_back("413", "The body is larger than --max-body.");
    all.emplace_back("415", "The body is not application/json.");
  }
  if (acts) {
    all.emplace_back("409", "The slot runs a request, has nothing to save, or the cache has no room now.");
    all.emplace_back("501", "The server was started without --slot-save-path.");
    all.emplace_back("507", "The file cannot be written.");
  }
  if (computes) all.emplace_back("429", "The queue is full; Retry-After says when to come again.");
  if (takes_body || route.open)
    all.emplace_back("503", "The server is shutting down, an engine failed, or the model cannot be loaded now.");
  return all;
}

OrderedJson content(const char* type, const OrderedJson& schema) {
  return {{type, {{"schema", schema}}}};
}

OrderedJson operation(const Route& route, const Service& service) {
  const OrderedJson body = request_schema(route.path, service);
  const OrderedJson answer = answer_schema(route.path);
  const OrderedJson event = event_schema(route.path);
  const bool generates = !event.is_null();
  const bool computes = route.answer == answer_embeddings || route.answer == answer_rerank;
  const OrderedJson text = {{"type", "string"}};
  OrderedJson good = {{"description", "The answer."}};
  good["content"] = answer.is_null() ? content("text/plain", text) : content("application/json", answer);
  if (generates) {
    good["description"] = "The answer; where stream is true, events, each of which is an object of its fields.";
    good["content"].update(content("text/event-stream", event));
  }
  OrderedJson value = {{"responses", {{"200", good}}}};
  for (const auto& [status, why] : statuses_of(route, !body.is_null(), generates || computes)) {
    OrderedJson bad = {{"description", why}};
    const char* const kind = is_message_path(route.path) ? "MessageError" : "Error";
    bad["content"] = content("application/json", {{"$ref", fmt::format("#/components/schemas/{}", kind)}});
    value["responses"][status] = std::move(bad);
  }
  if (!body.is_null()) value["requestBody"] = {{"content", content("application/json", body)}, {"required", true}};
  if (route.open) value["security"] = OrderedJson::array();
  return value;
}

// What stands in the path, and behind it.
OrderedJson parameters_of(const Route& route) {
  OrderedJson all = OrderedJson::array();
  const auto add = [&](const char* name, const char* in, const OrderedJson& schema) {
    const bool required = std::string_view(name) != "model";
    all.push_back({{"name", name}, {"in", in}, {"required", required}, {"schema", schema}});
  };
  const OrderedJson text = {{"type", "string"}, {"minLength", 1}};
  if (route.answer == answer_slot) {
    add("name", "path", {{"type", "integer"}, {"minimum", 0}, {"maximum", kMaxSlot}});
    add("action", "query", {{"enum", {"save", "restore", "erase"}}});
  } else if (std::string_view(route.path).ends_with('/')) {
    add("name", "path", text);
  } else if (route.answer == answer_slots) {
    add("model", "query", text);
  }
  return all;
}

OrderedJson document(const Service& service) {
  OrderedJson paths;
  for (const Route& route : all_routes()) {
    if (route.answer == answer_page) continue;  // for people
    const std::string path = route.path;
    const bool prefix = path.ends_with('/');
    OrderedJson value = operation(route, service);
    value["parameters"] = parameters_of(route);
    const std::string method = route.method == std::string_view("POST") ? "post" : "get";
    paths[prefix ? path + "{name}" : path][method] = std::move(value);
  }
  return {{"openapi", "3.1.0"},
          {"info", {{"title", "Metal Marlin"}, {"version", version()}}},
          {"paths", paths},
          {"security", {{{"key", OrderedJson::array()}}, {{"plain_key", OrderedJson::array()}}}},
          {"components",
           {{"securitySchemes",
             {{"key", {{"type", "http"}, {"scheme", "bearer"}}},
              {"plain_key", {{"type", "apiKey"}, {"in", "header"}, {"name", "x-api-key"}}}}},
            {"schemas", {{"Error", error_schema()}, {"MessageError", message_error_schema()}}}}}};
}

}  // namespace

void answer_openapi(Service& service, const Call& call) {
  call.exchange->respond(200, "application/json", json_text(document(service)));
}

}  // namespace metal_marlin::server
