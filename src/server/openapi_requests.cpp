// The bodies of requests: what fields.cpp, sampling_fields.cpp and the routes read, with the ranges that they check.
#include <fmt/format.h>

#include <algorithm>

#include "server/chat.h"
#include "server/embeddings.h"
#include "server/json_schema.h"
#include "server/openapi_schemas.h"
#include "server/sampling_fields.h"

namespace metal_marlin::server {
namespace schema {
namespace {

// Of all models that are served the largest; a request for another of them is told so. Of one that was not loaded yet
// it is not known.
std::int64_t largest(const Service& service, std::optional<std::int64_t> ModelStatus::*of) {
  std::int64_t most = 0;
  for (const ModelStatus& model : service.models.all()) most = std::max(most, (model.*of).value_or(INT32_MAX));
  return most;
}

std::int64_t vocabulary_of(const Service& service) {
  return largest(service, &ModelStatus::vocabulary);
}

OrderedJson token(const Service& service) {
  return integer(0, vocabulary_of(service) - 1);
}

OrderedJson some_text() {
  return {{"type", "string"}, {"minLength", 1}};
}

// A pattern for the numbers from 0 to `most`, as they are written in decimal.
std::string decimal_pattern(std::int64_t most) {
  const std::string digits = fmt::format("{}", most);
  std::string pattern = "^(0|" + digits;
  for (std::size_t size = 1; size < digits.size(); ++size) pattern += fmt::format("|[1-9][0-9]{{{}}}", size - 1);
  for (std::size_t at = 0; at < digits.size(); ++at) {  // as `digits` up to there, smaller there, then anything
    const char low = at == 0 ? '1' : '0';
    if (digits[at] <= low) continue;
    pattern += fmt::format("|{}[{}-{}][0-9]{{{}}}", digits.substr(0, at), low, static_cast<char>(digits[at] - 1),
                           digits.size() - at - 1);
  }
  return pattern + ")$";
}

OrderedJson model_name(const Service& service) {
  OrderedJson names = OrderedJson::array();
  for (const ModelStatus& model : service.models.all()) names.push_back(model.name);
  if (names.size() == 1) names.push_back("");  // as where there is none
  return {{"type", "string"}, {"enum", names}};
}

OrderedJson object_of(const Properties& properties, const std::vector<std::string>& required) {
  OrderedJson value = {{"type", "object"}, {"properties", OrderedJson::object()}};
  for (const auto& [name, property] : properties) value["properties"][name] = property;
  if (!required.empty()) value["required"] = required;
  value["additionalProperties"] = type("null");
  return value;
}

// What ends answers, however it is called.
OrderedJson stop_texts() {
  return either({some_text(), list_of(some_text(), 0, kMaxStops)});
}

// What all requests for text take.
Properties with_sampling(const Service& service, Properties own) {
  const OrderedJson biases = {{"type", "object"},
                              {"patternProperties", {{decimal_pattern(vocabulary_of(service) - 1), number(-100, 100)}}},
                              {"additionalProperties", false}};
  const Properties shared = {{"model", model_name(service)},
                             {"stream", flag()},
                             {"temperature", number(0, 2)},
                             {"top_p", number(1e-6, 1)},
                             {"top_k", integer(-1, INT32_MAX)},
                             {"min_p", number(0, 1)},
                             {"typical_p", number(1e-6, 1)},
                             {"frequency_penalty", number(-2, 2)},
                             {"presence_penalty", number(-2, 2)},
                             {"repetition_penalty", number(0.01, 100)},
                             {"logit_bias", biases},
                             {"seed", integer(INT64_MIN, INT64_MAX)},
                             {"stop_token_ids", list_of(token(service))},
                             {"ignore_eos", flag()},
                             {"min_tokens", integer(0, INT32_MAX)},
                             {"priority", integer(INT32_MIN, INT32_MAX)}};
  own.insert(own.end(), shared.begin(), shared.end());
  return own;
}

// And OpenAI's alone.
Properties with_openai_sampling(const Service& service, Properties own) {
  own.emplace_back("stream_options", object_of({{"include_usage", nullable(flag())},
                                                {"include_obfuscation", nullable(flag())},
                                                {"continuous_usage_stats", nullable(flag())}},
                                               {}));
  own.emplace_back("stop", stop_texts());
  own.emplace_back("id_slot", integer(-1, kMaxSlot));
  own.emplace_back("include_stop_str_in_output", flag());
  return with_sampling(service, std::move(own));
}

OrderedJson json_schema() {
  return {{"type", {"object", "boolean"}}};
}

// Of OpenAI's formats; the schema has its name beside it.
Properties named_schema() {
  return {{"name", nullable(text())},
          {"description", nullable(text())},
          {"strict", nullable(flag())},
          {"schema", json_schema()}};
}

OrderedJson response_format() {
  return either({object_of({{"type", one_of({"text"})}}, {"type"}),
                 object_of({{"type", one_of({"json_object"})}, {"schema", nullable(json_schema())}}, {"type"}),
                 object_of({{"type", one_of({"json_schema"})}, {"json_schema", object_of(named_schema(), {"schema"})}},
                           {"type", "json_schema"})});
}

OrderedJson text_format() {
  Properties named = named_schema();
  named.emplace_back("type", one_of({"json_schema"}));
  return object_of({{"format", nullable(either({object_of({{"type", one_of({"text", "json_object"})}}, {"type"}),
                                                object_of(named, {"type", "schema"})}))},
                    {"verbosity", OrderedJson::object()}},
                   {});
}

// What an answer must look like, in others' words.
Properties with_grammars(Properties own) {
  const OrderedJson schema_or_text = {{"type", {"object", "boolean", "string"}}};
  const OrderedJson choices = list_of(some_text(), 1, INT32_MAX);
  const OrderedJson outputs = object_of({{"json", nullable(schema_or_text)},
                                         {"regex", nullable(some_text())},
                                         {"choice", nullable(choices)},
                                         {"grammar", nullable(some_text())},
                                         {"json_object", nullable(flag())}},
                                        {});
  const Properties shared = {{"guided_json", schema_or_text}, {"guided_regex", some_text()},
                             {"guided_choice", choices},      {"guided_grammar", some_text()},
                             {"grammar", some_text()},        {"json_schema", json_schema()},
                             {"structured_outputs", outputs}};
  own.insert(own.end(), shared.begin(), shared.end());
  return own;
}

OrderedJson template_variables() {
  return {{"type", "object"}, {"propertyNames", {{"not", {{"enum", kReservedVariables}}}}}};
}

OrderedJson named(const Properties& properties, const OrderedJson& required) {
  OrderedJson value = {{"type", "object"}, {"required", required}, {"properties", OrderedJson::object()}};
  for (const auto& [name, property] : properties) value["properties"][name] = property;
  return value;
}

// Of which no other field says anything.
OrderedJson closed(OrderedJson value) {
  value["additionalProperties"] = type("null");
  return value;
}

OrderedJson tool_name() {
  return {{"type", "string"}, {"pattern", "^[A-Za-z0-9_.-]{1,128}$"}};
}

// `flat`: with the function's fields beside the type, as responses have them. Names that come twice, choices of what is
// not there and parameters that are no JSON Schema are refused too.
Properties with_tools(Properties own, bool flat) {
  const auto tool = [&](Properties fields) {
    const OrderedJson type = one_of({"function"});
    if (!flat) return named({{"type", type}, {"function", closed(named(fields, {"name"}))}}, {"type", "function"});
    fields.emplace_back("type", type);
    return closed(named(fields, {"type", "name"}));
  };
  const Properties function = {{"name", tool_name()},
                               {"description", nullable(text())},
                               {"strict", nullable(flag())},
                               {"parameters", nullable(type("object"))}};
  const OrderedJson one = tool({{"name", tool_name()}});
  const OrderedJson mode = one_of({"auto", "required"});
  OrderedJson some = named({{"mode", mode}, {"tools", list_of(one, 1, kMostTools)}}, {"mode", "tools"});
  if (!flat) some = named({{"allowed_tools", some}}, {"allowed_tools"});
  some["required"].push_back("type");
  some["properties"]["type"] = one_of({"allowed_tools"});
  const OrderedJson choice = either({one_of({"none", "auto", "required"}), one, some});
  own.emplace_back("tools", list_of(tool(function), 0, kMostTools));
  own.emplace_back("tool_choice", choice);
  own.emplace_back("parallel_tool_calls", flag());
  if (flat) return own;
  own.emplace_back("functions", list_of(closed(named(function, {"name"})), 0, kMostTools));
  own.emplace_back("function_call", either({one_of({"none", "auto"}), named({{"name", tool_name()}}, {"name"})}));
  return own;
}

Properties with_messages(Properties own) {
  const OrderedJson part = {{"type", "object"},
                            {"required", {"text"}},
                            {"properties", {{"type", one_of({"text", nullptr})}, {"text", text()}}}};
  const OrderedJson content = either({text(), list_of(part)});
  const OrderedJson called =
      named({{"name", some_text()}, {"arguments", either({text(), type("object"), type("null")})}}, {"name"});
  const OrderedJson calls = list_of(named({{"id", nullable(text())}, {"function", called}}, {"function"}));
  const OrderedJson legacy = named({{"name", some_text()}, {"arguments", nullable(text())}}, {"name"});
  const OrderedJson with_legacy = {{"required", {"function_call"}}, {"properties", {{"function_call", legacy}}}};
  const OrderedJson with_content = {{"required", {"content"}}, {"properties", {{"content", content}}}};
  const OrderedJson with_calls = {{"required", {"tool_calls"}}, {"properties", {{"tool_calls", calls}}}};
  const OrderedJson message = {{"type", "object"},
                               {"required", {"role"}},
                               {"properties",
                                {{"role", {{"enum", kRoles}}},
                                 {"content", nullable(content)},
                                 {"tool_calls", nullable(calls)},
                                 {"function_call", nullable(legacy)}}},
                               {"anyOf", OrderedJson::array({with_content, with_calls, with_legacy})}};
  OrderedJson messages = list_of(message);
  messages["minItems"] = 1;
  const Properties shared = {{"messages", messages},
                             {"add_generation_prompt", flag()},
                             {"continue_final_message", flag()},
                             {"reasoning_effort", text()},
                             {"chat_template_kwargs", template_variables()}};
  own.insert(own.end(), shared.begin(), shared.end());
  return with_tools(std::move(own), false);
}

// A field that is null is as one that is not there; those that are required must be more than that.
OrderedJson body(const Properties& properties, const std::vector<std::string>& required,
                 std::optional<Api> idle_fields = std::nullopt) {
  OrderedJson value = {{"type", "object"}, {"required", required}, {"properties", OrderedJson::object()}};
  if (idle_fields) value["properties"] = schemas_of_idle_fields(*idle_fields);
  for (const auto& [name, property] : properties) {
    const bool must_be = std::find(required.begin(), required.end(), name) != required.end();
    value["properties"][name] = must_be ? property : nullable(property);
  }
  value["additionalProperties"] = type("null");
  return value;
}

OrderedJson completion_body(const Service& service) {
  const std::int64_t context = largest(service, &ModelStatus::context);
  const OrderedJson tokens = list_of(token(service), 1, static_cast<std::size_t>(context - 1));
  const OrderedJson prompts = list_of(either({some_text(), tokens}), 1, kMaxChoices);
  return body(with_openai_sampling(service, with_grammars({{"prompt", either({some_text(), tokens, prompts})},
                                                           {"max_tokens", integer(0, INT32_MAX)},
                                                           {"n", integer(1, kMaxChoices)},
                                                           {"echo", flag()},
                                                           {"response_format", response_format()},
                                                           {"logprobs", integer(0, kMaxLogprobs)}})),
              {"prompt"}, Api::kOpenAi);
}

OrderedJson chat_body(const Service& service) {
  const Properties own = {{"max_completion_tokens", integer(1, INT32_MAX)},
                          {"max_tokens", integer(1, INT32_MAX)},
                          {"n", integer(1, kMaxChoices)},
                          {"logprobs", flag()},
                          {"top_logprobs", integer(0, kMaxLogprobs)},
                          {"response_format", response_format()},
                          {"separate_reasoning", flag()},
                          {"thinking_budget", integer(1, INT32_MAX)}};
  return body(with_messages(with_openai_sampling(service, with_grammars(own))), {"messages"}, Api::kOpenAi);
}

OrderedJson response_part(const OrderedJson& types) {
  return {{"type", "object"},
          {"required", {"type", "text"}},
          {"properties", {{"type", {{"enum", types}}}, {"text", text()}}}};
}

OrderedJson response_body(const Service& service) {
  const OrderedJson parts = list_of(response_part({"input_text", "output_text", "text"}));
  const OrderedJson message = {{"type", "object"},
                               {"required", {"role", "content"}},
                               {"properties",
                                {{"type", one_of({"message", nullptr})},
                                 {"role", {{"enum", kResponseRoles}}},
                                 {"content", either({text(), parts})}}}};
  const OrderedJson thoughts = list_of(response_part(OrderedJson::array({"reasoning_text"})));
  const OrderedJson thought = {
      {"type", "object"},
      {"required", {"type"}},
      {"properties", {{"type", one_of({"reasoning"})}, {"content", nullable(either({text(), thoughts}))}}}};
  const OrderedJson call = named({{"type", one_of({"function_call"})},
                                  {"call_id", text()},
                                  {"name", some_text()},
                                  {"arguments", nullable(text())}},
                                 {"type", "call_id", "name"});
  const OrderedJson output =
      named({{"type", one_of({"function_call_output"})}, {"call_id", text()}, {"output", either({text(), parts})}},
            {"type", "call_id", "output"});
  // A thought alone is no message: there must be one.
  OrderedJson items = list_of(either({message, thought, call, output}));
  items["contains"] = either({message, call, output});
  const OrderedJson reasoning = {
      {"type", "object"},
      {"properties",
       {{"effort", nullable(text())}, {"summary", OrderedJson::object()}, {"generate_summary", OrderedJson::object()}}},
      {"additionalProperties", type("null")}};
  const Properties own = {{"input", either({text(), items})},
                          {"instructions", text()},
                          {"max_output_tokens", integer(1, INT32_MAX)},
                          {"top_logprobs", integer(0, kMaxLogprobs)},
                          {"include", list_of(one_of({kIncludeLogprobs}))},
                          {"n", integer(1, 1)},
                          {"text", text_format()},
                          {"reasoning", reasoning},
                          {"chat_template_kwargs", template_variables()}};
  return body(with_openai_sampling(service, with_grammars(with_tools(own, true))), {"input"}, Api::kOpenAi);
}

OrderedJson text_block() {
  return named({{"type", one_of({"text"})}, {"text", text()}}, {"type", "text"});
}

// Messages of Anthropic's API; that a result is of a call before it, a schema cannot say.
OrderedJson block_messages() {
  const OrderedJson texts = either({text(), list_of(text_block())});
  const OrderedJson result = named({{"type", one_of({"tool_result"})},
                                    {"tool_use_id", text()},
                                    {"content", nullable(texts)},
                                    {"is_error", nullable(flag())}},
                                   {"type", "tool_use_id"});
  const OrderedJson call =
      named({{"type", one_of({"tool_use"})}, {"id", text()}, {"name", some_text()}, {"input", type("object")}},
            {"type", "id", "name", "input"});
  const OrderedJson thought = named({{"type", one_of({"thinking"})}, {"thinking", text()}}, {"type", "thinking"});
  const OrderedJson hidden = named({{"type", one_of({"redacted_thinking"})}}, {"type"});
  const auto message = [](const char* role, const std::vector<OrderedJson>& blocks) {
    return named({{"role", one_of({role})}, {"content", either({text(), list_of(either(blocks))})}},
                 {"role", "content"});
  };
  OrderedJson messages =
      list_of(either({message("user", {text_block(), result}),
                      message("assistant", {text_block(), thought, hidden, call}), message("system", {text_block()})}));
  messages["minItems"] = 1;
  return messages;
}

OrderedJson message_tool() {
  return object_of({{"name", tool_name()},
                    {"input_schema", type("object")},
                    {"type", one_of({"custom", nullptr})},
                    {"description", nullable(text())},
                    {"strict", nullable(flag())},
                    {"input_examples", nullable(list_of(type("object")))},
                    {"eager_input_streaming", nullable(flag())},
                    {"defer_loading", one_of({false, nullptr})},
                    {"allowed_callers", one_of({OrderedJson::array({"direct"}), nullptr})},
                    {"cache_control", OrderedJson::object()}},
                   {"name", "input_schema"});
}

OrderedJson message_choice() {
  const OrderedJson parallel = nullable(flag());
  return either(
      {object_of({{"type", one_of({"auto", "any", "none"})}, {"disable_parallel_tool_use", parallel}}, {"type"}),
       object_of({{"type", one_of({"tool"})}, {"name", tool_name()}, {"disable_parallel_tool_use", parallel}},
                 {"type", "name"})});
}

OrderedJson thinking() {
  const OrderedJson display = one_of({"summarized", "omitted", nullptr});
  return either(
      {object_of({{"type", one_of({"enabled"})}, {"budget_tokens", integer(1, INT32_MAX)}, {"display", display}},
                 {"type", "budget_tokens"}),
       object_of({{"type", one_of({"adaptive"})}, {"display", display}}, {"type"}),
       object_of({{"type", one_of({"disabled"})}}, {"type"})});
}

// What both /v1/messages and its count_tokens take.
Properties with_blocks(Properties own) {
  Properties named = named_schema();
  named.emplace_back("type", one_of({"json_schema"}));
  const OrderedJson format = object_of(named, {"type", "schema"});
  const Properties shared = {
      {"messages", block_messages()},
      {"system", either({text(), list_of(text_block())})},
      {"tools", list_of(message_tool(), 0, kMostTools)},
      {"tool_choice", message_choice()},
      {"thinking", thinking()},
      {"output_format", format},
      {"output_config", object_of({{"format", nullable(format)}, {"effort", nullable(text())}}, {})},
      {"chat_template_kwargs", template_variables()}};
  own.insert(own.end(), shared.begin(), shared.end());
  return with_grammars(std::move(own));
}

OrderedJson message_body(const Service& service) {
  const Properties own = {{"max_tokens", integer(1, INT32_MAX)},
                          {"stop_sequences", stop_texts()},
                          {"metadata", object_of({{"user_id", nullable(text())}}, {})}};
  return body(with_blocks(with_sampling(service, own)), {"messages", "max_tokens"}, Api::kAnthropic);
}

OrderedJson tokenize_body(const Service& service) {
  const OrderedJson of_text = body({{"model", model_name(service)},
                                    {"prompt", text()},
                                    {"add_special_tokens", flag()},
                                    {"parse_special", flag()},
                                    {"return_token_strs", flag()}},
                                   {"prompt"});
  const OrderedJson of_messages =
      body(with_messages({{"model", model_name(service)}, {"return_token_strs", flag()}}), {"messages"});
  return either({of_text, of_messages});
}

OrderedJson embedding_body(const Service& service) {
  const std::int64_t context = largest(service, &ModelStatus::context);
  const OrderedJson tokens = list_of(token(service), 1, static_cast<std::size_t>(context));
  const OrderedJson inputs = list_of(either({some_text(), tokens}), 1, kMostInputs);
  return body({{"model", model_name(service)},
               {"input", either({some_text(), tokens, inputs})},
               {"encoding_format", one_of({"float", "base64"})},
               {"dimensions", integer(1, largest(service, &ModelStatus::dimensions))},
               {"prompt_name", one_of({""})},
               {"user", text()}},
              {"input"});
}

OrderedJson rerank_body(const Service& service) {
  const OrderedJson document = object_of({{"text", some_text()}}, {"text"});
  OrderedJson value = body({{"model", model_name(service)},
                            {"query", some_text()},
                            {"documents", list_of(either({some_text(), document}), 1, kMostInputs)},
                            {"top_n", integer(1, INT32_MAX)},
                            {"return_documents", flag()},
                            {"user", text()}},
                           {"documents"});
  value["required"].push_back("query");
  value["properties"]["query"] = some_text();
  return value;
}

}  // namespace
}  // namespace schema

OrderedJson request_schema(const std::string& path, const Service& service) {
  if (path == "/v1/completions") return schema::completion_body(service);
  if (path == "/v1/chat/completions") return schema::chat_body(service);
  if (path == "/v1/responses") return schema::response_body(service);
  if (path == "/v1/embeddings") return schema::embedding_body(service);
  if (path == "/v1/rerank" || path == "/rerank") return schema::rerank_body(service);
  if (path == "/v1/messages") return schema::message_body(service);
  if (path == "/v1/messages/count_tokens") {
    return schema::body(schema::with_blocks({{"model", schema::model_name(service)}}), {"messages"}, Api::kAnthropic);
  }
  if (path == "/tokenize") return schema::tokenize_body(service);
  if (path == "/apply-template")
    return schema::body(schema::with_messages({{"model", schema::model_name(service)}}), {"messages"});
  if (path == "/slots/")
    return schema::body({{"model", schema::model_name(service)}, {"filename", slot_file_name()}}, {});
  if (path != "/detokenize") return {};
  return schema::body({{"model", schema::model_name(service)},
                       {"tokens", schema::list_of(schema::token(service))},
                       {"skip_special_tokens", schema::flag()}},
                      {"tokens"});
}

}  // namespace metal_marlin::server
