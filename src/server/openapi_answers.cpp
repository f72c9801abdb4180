// The answers of the routes, and of what went wrong.
#include "server/json_schema.h"
#include "server/openapi_schemas.h"

namespace metal_marlin::server {
namespace schema {
namespace {

// All of its fields are there, and no others.
OrderedJson object(const Properties& properties, const Properties& sometimes = {}) {
  OrderedJson value = {{"type", "object"}, {"required", OrderedJson::array()}, {"additionalProperties", false}};
  for (const auto& [name, property] : properties) {
    value["required"].push_back(name);
    value["properties"][name] = property;
  }
  for (const auto& [name, property] : sometimes) value["properties"][name] = property;
  return value;
}

OrderedJson logprob() {
  return {{"type", "number"}, {"maximum", 0}};
}

OrderedJson model_answer() {
  return object({{"id", text()},
                 {"object", one_of({"model"})},
                 {"created", count()},
                 {"owned_by", text()},
                 {"max_model_len", count()}});
}

OrderedJson choices_answer(const char* kind, OrderedJson choice) {
  const OrderedJson usage = object({{"prompt_tokens", count()},
                                    {"completion_tokens", count()},
                                    {"total_tokens", count()},
                                    {"prompt_tokens_details", object({{"cached_tokens", count()}})}});
  choice["minItems"] = 1;
  return object({{"id", text()},
                 {"object", one_of({kind})},
                 {"created", count()},
                 {"model", text()},
                 {"system_fingerprint", text()},
                 {"choices", std::move(choice)},
                 {"usage", usage}});
}

OrderedJson completion_answer() {
  const OrderedJson likeliest = {{"type", "object"}, {"additionalProperties", logprob()}};
  const OrderedJson logprobs = object({{"text_offset", list_of(count())},
                                       {"token_logprobs", list_of(nullable(logprob()))},
                                       {"tokens", list_of(text())},
                                       {"top_logprobs", list_of(nullable(likeliest))}});
  return choices_answer("text_completion", list_of(object({{"index", count()},
                                                           {"text", text()},
                                                           {"logprobs", nullable(logprobs)},
                                                           {"finish_reason", one_of({"stop", "length"})}})));
}

OrderedJson chat_answer() {
  const Properties token = {{"token", text()}, {"logprob", logprob()}, {"bytes", nullable(list_of(integer(0, 255)))}};
  Properties with_others = token;
  with_others.emplace_back("top_logprobs", list_of(object(token)));
  const OrderedJson logprobs = object({{"content", list_of(object(with_others))}, {"refusal", type("null")}});
  const OrderedJson message = object({{"role", one_of({"assistant"})}, {"content", text()}, {"refusal", type("null")}},
                                     {{"reasoning_content", nullable(text())}});
  return choices_answer("chat.completion", list_of(object({{"index", count()},
                                                           {"message", message},
                                                           {"logprobs", nullable(logprobs)},
                                                           {"finish_reason", one_of({"stop", "length"})}})));
}

OrderedJson response_output() {
  const OrderedJson none = {{"type", "array"}, {"maxItems", 0}};
  const OrderedJson said =
      object({{"type", one_of({"output_text"})}, {"annotations", none}, {"logprobs", none}, {"text", text()}});
  const OrderedJson message = object({{"id", text()},
                                      {"type", one_of({"message"})},
                                      {"status", one_of({"completed"})},
                                      {"role", one_of({"assistant"})},
                                      {"content", list_of(said)}});
  const OrderedJson thought =
      object({{"id", text()},
              {"type", one_of({"reasoning"})},
              {"status", one_of({"completed"})},
              {"summary", none},
              {"content", list_of(object({{"type", one_of({"reasoning_text"})}, {"text", text()}}))}});
  return list_of(either({message, thought}));
}

OrderedJson response_answer() {
  const OrderedJson usage =
      object({{"input_tokens", count()},
              {"input_tokens_details", object({{"cached_tokens", count()}, {"cache_write_tokens", one_of({0})}})},
              {"output_tokens", count()},
              {"output_tokens_details", object({{"reasoning_tokens", count()}})},
              {"total_tokens", count()}});
  const OrderedJson any = OrderedJson::object();  // as it was asked
  return object({{"id", text()},
                 {"object", one_of({"response"})},
                 {"created_at", count()},
                 {"status", one_of({"completed", "incomplete"})},
                 {"error", type("null")},
                 {"incomplete_details", nullable(object({{"reason", one_of({"max_output_tokens"})}}))},
                 {"model", text()},
                 {"output", response_output()},
                 {"parallel_tool_calls", one_of({false})},
                 {"previous_response_id", type("null")},
                 {"store", one_of({false})},
                 {"temperature", type("number")},
                 {"text", object({{"format", object({{"type", one_of({"text"})}})}})},
                 {"tool_choice", one_of({"none"})},
                 {"tools", {{"type", "array"}, {"maxItems", 0}}},
                 {"top_p", number(0, 1)},
                 {"truncation", one_of({"disabled"})},
                 {"usage", usage},
                 {"instructions", nullable(text())},
                 {"max_output_tokens", nullable(count())},
                 {"metadata", any},
                 {"reasoning", any}});
}

}  // namespace
}  // namespace schema

OrderedJson answer_schema(const std::string& path) {
  if (path == "/v1/completions") return schema::completion_answer();
  if (path == "/v1/chat/completions") return schema::chat_answer();
  if (path == "/v1/responses") return schema::response_answer();
  if (path == "/v1/models")
    return schema::object({{"object", schema::one_of({"list"})}, {"data", schema::list_of(schema::model_answer())}});
  if (path == "/v1/models/") return schema::model_answer();
  if (path == "/detokenize" || path == "/apply-template") return schema::object({{"prompt", schema::text()}});
  if (path == "/tokenize") {
    return schema::object(
        {{"count", schema::count()}, {"max_model_len", schema::count()}, {"tokens", schema::list_of(schema::count())}},
        {{"token_strs", schema::list_of(schema::text())}});
  }
  if (path == "/version") return schema::object({{"version", schema::text()}});
  if (path == "/health" || path == "/ready") return schema::object({{"status", schema::one_of({"ok"})}});
  if (path == "/openapi.json") return schema::type("object");
  return {};
}

OrderedJson error_schema() {
  return schema::object({{"error", schema::object({{"message", schema::text()},
                                                   {"type", schema::text()},
                                                   {"param", schema::nullable(schema::text())},
                                                   {"code", schema::nullable(schema::text())}})}});
}

}  // namespace metal_marlin::server
