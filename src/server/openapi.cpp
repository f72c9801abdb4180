// /openapi.json: what the routes take and give, for programs.
#include <map>
#include <span>

#include "metal_marlin/inspect.h"
#include "server/json_text.h"
#include "server/routes.h"

namespace metal_marlin::server {
namespace {

struct Property {
  const char* name;
  OrderedJson schema;
};
using Properties = std::vector<Property>;

OrderedJson number(double low, double high) {
  return {{"type", "number"}, {"minimum", low}, {"maximum", high}};
}

OrderedJson integer(std::int64_t low) {
  return {{"type", "integer"}, {"minimum", low}};
}

OrderedJson list_of(OrderedJson items) {
  return {{"type", "array"}, {"items", std::move(items)}};
}

OrderedJson either(std::vector<OrderedJson> schemas) {
  return {{"anyOf", std::move(schemas)}};
}

const OrderedJson kText = {{"type", "string"}};
const OrderedJson kFlag = {{"type", "boolean"}};
const OrderedJson kObject = {{"type", "object"}};
const OrderedJson kTokens = list_of({{"type", "integer"}, {"minimum", 0}});

OrderedJson text_or_texts() {
  return either({kText, list_of(kText)});
}

// What all requests for text take: sampling_fields.cpp.
Properties with_sampling(Properties own) {
  const Properties shared = {{"model", kText},
                             {"stream", kFlag},
                             {"stream_options", {{"type", "object"}, {"properties", {{"include_usage", kFlag}}}}},
                             {"temperature", number(0, 2)},
                             {"top_p", number(0, 1)},
                             {"top_k", integer(-1)},
                             {"min_p", number(0, 1)},
                             {"typical_p", number(0, 1)},
                             {"frequency_penalty", number(-2, 2)},
                             {"presence_penalty", number(-2, 2)},
                             {"repetition_penalty", number(0.01, 100)},
                             {"logit_bias", {{"type", "object"}, {"additionalProperties", number(-100, 100)}}},
                             {"seed", {{"type", "integer"}}},
                             {"stop", text_or_texts()},
                             {"stop_token_ids", kTokens},
                             {"ignore_eos", kFlag},
                             {"min_tokens", integer(0)},
                             {"priority", {{"type", "integer"}}}};
  own.insert(own.end(), shared.begin(), shared.end());
  return own;
}

Properties with_messages(Properties own) {
  const OrderedJson message = {{"type", "object"},
                               {"required", {"role"}},
                               {"properties", {{"role", kText}, {"content", either({kText, list_of(kObject)})}}}};
  const Properties shared = {{"messages", list_of(message)},
                             {"add_generation_prompt", kFlag},
                             {"continue_final_message", kFlag},
                             {"reasoning_effort", kText},
                             {"chat_template_kwargs", kObject}};
  own.insert(own.end(), shared.begin(), shared.end());
  return own;
}

OrderedJson body_schema(const Properties& properties, const OrderedJson& required) {
  OrderedJson schema = {{"type", "object"}, {"additionalProperties", false}};
  if (!required.empty()) schema["required"] = required;
  for (const Property& property : properties) schema["properties"][property.name] = property.schema;
  return schema;
}

// By path: the body of those that take one.
std::map<std::string, OrderedJson> bodies() {
  const OrderedJson prompts = either({kText, list_of(kText), kTokens, list_of(kTokens)});
  std::map<std::string, OrderedJson> all;
  all["/v1/completions"] = body_schema(with_sampling({{"prompt", prompts},
                                                      {"max_tokens", integer(0)},
                                                      {"n", integer(1)},
                                                      {"echo", kFlag},
                                                      {"logprobs", integer(0)}}),
                                       {"prompt"});
  all["/v1/chat/completions"] = body_schema(with_messages(with_sampling({{"max_completion_tokens", integer(1)},
                                                                         {"max_tokens", integer(1)},
                                                                         {"n", integer(1)},
                                                                         {"logprobs", kFlag},
                                                                         {"top_logprobs", integer(0)},
                                                                         {"separate_reasoning", kFlag},
                                                                         {"thinking_budget", integer(1)}})),
                                            {"messages"});
  all["/v1/responses"] = body_schema(with_sampling({{"input", either({kText, list_of(kObject)})},
                                                    {"instructions", kText},
                                                    {"max_output_tokens", integer(1)},
                                                    {"reasoning", kObject},
                                                    {"chat_template_kwargs", kObject}}),
                                     {"input"});
  all["/tokenize"] = body_schema(with_messages({{"model", kText},
                                                {"prompt", kText},
                                                {"add_special_tokens", kFlag},
                                                {"parse_special", kFlag},
                                                {"return_token_strs", kFlag}}),
                                 OrderedJson::array());
  all["/detokenize"] = body_schema({{"model", kText}, {"tokens", kTokens}, {"skip_special_tokens", kFlag}}, {"tokens"});
  all["/apply-template"] = body_schema(with_messages({{"model", kText}}), {"messages"});
  return all;
}

OrderedJson operation(const Route& route, const std::map<std::string, OrderedJson>& schemas) {
  const auto content = [](const char* type, const OrderedJson& schema) {
    return OrderedJson{{"content", {{type, {{"schema", schema}}}}}};
  };
  OrderedJson good = content("application/json", kObject);
  good["description"] = "The answer; with stream: true a text/event-stream.";
  OrderedJson bad = content("application/json", {{"$ref", "#/components/schemas/Error"}});
  bad["description"] = "What is wrong.";
  OrderedJson value = {{"responses", {{"200", good}, {"default", bad}}}};
  const auto schema = schemas.find(route.path);
  if (schema != schemas.end()) {
    value["requestBody"] = content("application/json", schema->second);
    value["requestBody"]["required"] = true;
  }
  if (route.open) value["security"] = OrderedJson::array();
  return value;
}

OrderedJson document() {
  const auto schemas = bodies();
  OrderedJson paths;
  for (const Route& route : all_routes()) {
    const std::string path = route.path;
    const bool prefix = path.ends_with('/');
    OrderedJson value = operation(route, schemas);
    if (prefix) value["parameters"] = {{{"name", "name"}, {"in", "path"}, {"required", true}, {"schema", kText}}};
    const std::string method = route.method == std::string_view("POST") ? "post" : "get";
    paths[prefix ? path + "{name}" : path][method] = std::move(value);
  }
  const OrderedJson error = {{"message", kText}, {"type", kText}, {"param", kText}, {"code", kText}};
  return {{"openapi", "3.1.0"},
          {"info", {{"title", "Metal Marlin"}, {"version", version()}}},
          {"paths", paths},
          {"security", {{{"key", OrderedJson::array()}}}},
          {"components",
           {{"securitySchemes", {{"key", {{"type", "http"}, {"scheme", "bearer"}}}}},
            {"schemas",
             {{"Error",
               {{"type", "object"}, {"properties", {{"error", {{"type", "object"}, {"properties", error}}}}}}}}}}}};
}

}  // namespace

void answer_openapi(Service&, const Call& call) {
  call.exchange->respond(200, "application/json", json_text(document()));
}

}  // namespace metal_marlin::server
