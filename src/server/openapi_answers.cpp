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

OrderedJson told_error() {
  return object({{"message", text()}, {"type", text()}, {"param", nullable(text())}, {"code", nullable(text())}},
                {{"details", object({{"error_code", text()}})}});
}

OrderedJson model_answer() {
  return object({{"id", text()},
                 {"object", one_of({"model"})},
                 {"created", count()},
                 {"owned_by", text()},
                 {"max_model_len", nullable(count())},
                 {"state", one_of({"unloaded", "loading", "loaded", "unloading", "failed"})},
                 {"type", one_of({"model"})},
                 {"display_name", text()},
                 {"created_at", text()},
                 {"lifecycle", one_of({"active"})},
                 {"max_input_tokens", nullable(count())},
                 {"max_tokens", nullable(count())}},
                {{"failure", text()}, {"parent", text()}});
}

OrderedJson embedding_answer() {
  const OrderedJson vector = object({{"object", one_of({"embedding"})},
                                     {"index", count()},
                                     {"embedding", either({list_of(type("number")), text()})}});
  return object({{"object", one_of({"list"})},
                 {"data", list_of(vector)},
                 {"model", text()},
                 {"usage", object({{"prompt_tokens", count()}, {"total_tokens", count()}})}});
}

OrderedJson slot_answer() {
  return object({{"id", count()},
                 {"model", text()},
                 {"adapter", nullable(text())},
                 {"n_ctx", count()},
                 {"is_processing", flag()},
                 {"state", one_of({"idle", "prompt", "generating"})},
                 {"is_own", flag()},
                 {"id_task", integer(-1, INT64_MAX)},
                 {"prompt_tokens", count()},
                 {"cached_tokens", count()},
                 {"generated_tokens", count()},
                 {"n_past", count()},
                 {"seconds", nullable({{"type", "number"}, {"minimum", 0}})}});
}

OrderedJson slot_action_answer() {
  const OrderedJson milliseconds = {{"type", "number"}, {"minimum", 0}};
  const auto moved = [&](const char* tokens, const char* bytes, const char* time) {
    return object({{"id_slot", count()},
                   {"filename", text()},
                   {tokens, count()},
                   {bytes, count()},
                   {"timings", object({{time, milliseconds}})}});
  };
  return either({moved("n_saved", "n_written", "save_ms"), moved("n_restored", "n_read", "restore_ms"),
                 object({{"id_slot", count()}, {"n_erased", count()}})});
}

OrderedJson rerank_answer() {
  const OrderedJson result =
      object({{"index", count()}, {"relevance_score", type("number")}}, {{"document", object({{"text", text()}})}});
  return object({{"id", text()},
                 {"object", one_of({"list"})},
                 {"model", text()},
                 {"results", list_of(result)},
                 {"usage", object({{"prompt_tokens", count()}, {"total_tokens", count()}})}});
}

OrderedJson choices_frame(const char* kind, const OrderedJson& choices, const Properties& usage,
                          const Properties& sometimes = {}) {
  Properties all = {{"id", text()},    {"object", one_of({kind})},     {"created", count()},
                    {"model", text()}, {"system_fingerprint", text()}, {"choices", choices}};
  all.insert(all.end(), usage.begin(), usage.end());
  return object(all, sometimes);
}

OrderedJson usage_of_choices() {
  return object({{"prompt_tokens", count()},
                 {"completion_tokens", count()},
                 {"total_tokens", count()},
                 {"prompt_tokens_details", object({{"cached_tokens", count()}})}});
}

// All of them, or what is added to one; a stream's last event may have none.
OrderedJson choices_answer(const char* kind, const OrderedJson& choice) {
  OrderedJson choices = list_of(choice);
  choices["minItems"] = 1;
  return choices_frame(kind, choices, {{"usage", usage_of_choices()}});
}
OrderedJson choices_event(const char* kind, const OrderedJson& choice) {
  return choices_frame(kind, list_of(choice, 0, 1), {}, {{"usage", nullable(usage_of_choices())}});
}

OrderedJson finish(const OrderedJson& reasons = {"stop", "length"}) {
  return {{"enum", reasons}};
}

const OrderedJson& chat_reasons() {
  static const OrderedJson all = {"stop", "length", "tool_calls", "function_call"};
  return all;
}

OrderedJson called_function() {
  return object({{"name", text()}, {"arguments", text()}});
}

OrderedJson token_logprobs() {
  const Properties token = {{"token", text()}, {"logprob", logprob()}, {"bytes", nullable(list_of(integer(0, 255)))}};
  Properties with_others = token;
  with_others.emplace_back("top_logprobs", list_of(object(token)));
  return list_of(object(with_others));
}

OrderedJson completion_choice(const OrderedJson& reason) {
  const OrderedJson likeliest = {{"type", "object"}, {"additionalProperties", logprob()}};
  const OrderedJson logprobs = object({{"text_offset", list_of(count())},
                                       {"token_logprobs", list_of(nullable(logprob()))},
                                       {"tokens", list_of(text())},
                                       {"top_logprobs", list_of(nullable(likeliest))}});
  return object({{"index", count()}, {"text", text()}, {"logprobs", nullable(logprobs)}, {"finish_reason", reason}});
}

// `message` is called what it is in answers, and in events.
OrderedJson chat_choice(const char* message_name, const OrderedJson& message, const OrderedJson& reason) {
  const OrderedJson logprobs = object({{"content", token_logprobs()}, {"refusal", type("null")}});
  return object(
      {{"index", count()}, {message_name, message}, {"logprobs", nullable(logprobs)}, {"finish_reason", reason}});
}

OrderedJson chat_answer() {
  const OrderedJson call = object({{"id", text()}, {"type", one_of({"function"})}, {"function", called_function()}});
  const OrderedJson message = object(
      {{"role", one_of({"assistant"})}, {"content", nullable(text())}, {"refusal", type("null")}},
      {{"reasoning_content", nullable(text())}, {"tool_calls", list_of(call)}, {"function_call", called_function()}});
  return choices_answer("chat.completion", chat_choice("message", message, finish(chat_reasons())));
}

OrderedJson chat_event() {
  const OrderedJson begun =
      object({{"index", count()}, {"id", text()}, {"type", one_of({"function"})}, {"function", called_function()}});
  const OrderedJson more_arguments = object({{"arguments", text()}});
  const OrderedJson more = object({{"index", count()}, {"function", more_arguments}});
  const OrderedJson delta = object({}, {{"role", one_of({"assistant"})},
                                        {"content", text()},
                                        {"reasoning_content", text()},
                                        {"tool_calls", list_of(either({begun, more}))},
                                        {"function_call", either({called_function(), more_arguments})}});
  return choices_event("chat.completion.chunk", chat_choice("delta", delta, nullable(finish(chat_reasons()))));
}

// Data is JSON, or one of these words.
OrderedJson event(const OrderedJson& data, const Properties& named, const std::vector<OrderedJson>& words = {}) {
  const OrderedJson json = {{"type", "string"}, {"contentMediaType", "application/json"}, {"contentSchema", data}};
  Properties all = named;
  all.emplace_back("data", words.empty() ? json : either({json, one_of(words)}));
  return object(all);
}

OrderedJson response_output() {
  const OrderedJson none = {{"type", "array"}, {"maxItems", 0}};
  const OrderedJson said = object(
      {{"type", one_of({"output_text"})}, {"annotations", none}, {"logprobs", token_logprobs()}, {"text", text()}});
  const OrderedJson message = object({{"id", text()},
                                      {"type", one_of({"message"})},
                                      {"status", one_of({"completed", "incomplete"})},
                                      {"role", one_of({"assistant"})},
                                      {"content", list_of(said)}});
  const OrderedJson thought =
      object({{"id", text()},
              {"type", one_of({"reasoning"})},
              {"status", one_of({"completed", "incomplete"})},
              {"summary", none},
              {"content", list_of(object({{"type", one_of({"reasoning_text"})}, {"text", text()}}))}});
  const OrderedJson call = object({{"id", text()},
                                   {"type", one_of({"function_call"})},
                                   {"status", one_of({"completed", "incomplete"})},
                                   {"call_id", text()},
                                   {"name", text()},
                                   {"arguments", text()}});
  return list_of(either({message, thought, call}));
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
                 {"parallel_tool_calls", flag()},
                 {"previous_response_id", type("null")},
                 {"store", one_of({false})},
                 {"temperature", type("number")},
                 {"text", object({{"format", object({{"type", one_of({"text"})}})}})},
                 {"tool_choice", any},
                 {"tools", type("array")},
                 {"top_logprobs", count()},
                 {"top_p", number(0, 1)},
                 {"truncation", one_of({"disabled"})},
                 {"usage", usage},
                 {"instructions", nullable(text())},
                 {"max_output_tokens", nullable(count())},
                 {"metadata", any},
                 {"reasoning", any}});
}

OrderedJson message_usage() {
  return object({{"input_tokens", count()},
                 {"cache_creation_input_tokens", one_of({0})},
                 {"cache_read_input_tokens", count()},
                 {"output_tokens", count()},
                 {"output_tokens_details", object({{"thinking_tokens", count()}})},
                 {"service_tier", one_of({"standard"})}});
}

OrderedJson message_block() {
  const OrderedJson thought = object({{"type", one_of({"thinking"})}, {"thinking", text()}, {"signature", text()}});
  const OrderedJson call =
      object({{"type", one_of({"tool_use"})}, {"id", text()}, {"name", text()}, {"input", type("object")}});
  return either({object({{"type", one_of({"text"})}, {"text", text()}}), thought, call});
}

OrderedJson message_reasons() {
  return one_of({"end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"});
}

OrderedJson message_answer(const OrderedJson& content, const OrderedJson& reason) {
  return object({{"id", text()},
                 {"type", one_of({"message"})},
                 {"role", one_of({"assistant"})},
                 {"model", text()},
                 {"content", content},
                 {"stop_reason", reason},
                 {"stop_sequence", nullable(text())},
                 {"usage", message_usage()}});
}

OrderedJson message_event() {
  const auto of = [](const char* name, Properties fields) {
    fields.emplace_back("type", one_of({name}));
    return object(fields);
  };
  const OrderedJson none = {{"type", "array"}, {"maxItems", 0}};
  const auto delta = [&](const char* kind, const char* key) { return of(kind, {{key, text()}}); };
  const OrderedJson deltas = either({delta("text_delta", "text"), delta("thinking_delta", "thinking"),
                                     delta("signature_delta", "signature"), delta("input_json_delta", "partial_json")});
  const OrderedJson ended = object({{"stop_reason", message_reasons()}, {"stop_sequence", nullable(text())}});
  return either({of("message_start", {{"message", message_answer(none, type("null"))}}),
                 of("content_block_start", {{"index", count()}, {"content_block", message_block()}}),
                 of("content_block_delta", {{"index", count()}, {"delta", deltas}}),
                 of("content_block_stop", {{"index", count()}}), of("ping", {}),
                 of("message_delta", {{"delta", ended}, {"usage", message_usage()}}), of("message_stop", {}),
                 message_error_schema()});
}

}  // namespace
}  // namespace schema

OrderedJson answer_schema(const std::string& path) {
  if (path == "/v1/completions") {
    return schema::choices_answer("text_completion", schema::completion_choice(schema::finish()));
  }
  if (path == "/v1/chat/completions") return schema::chat_answer();
  if (path == "/v1/responses") return schema::response_answer();
  if (path == "/v1/embeddings") return schema::embedding_answer();
  if (path == "/v1/rerank" || path == "/rerank") return schema::rerank_answer();
  if (path == "/v1/messages") {
    OrderedJson content = schema::list_of(schema::message_block());
    content["minItems"] = 1;
    return schema::message_answer(content, schema::message_reasons());
  }
  if (path == "/v1/messages/count_tokens") return schema::object({{"input_tokens", schema::count()}});
  if (path == "/v1/models") {
    return schema::object({{"object", schema::one_of({"list"})},
                           {"data", schema::list_of(schema::model_answer())},
                           {"has_more", schema::one_of({false})},
                           {"first_id", schema::text()},
                           {"last_id", schema::text()}});
  }
  if (path == "/v1/models/") return schema::model_answer();
  if (path == "/detokenize" || path == "/apply-template") return schema::object({{"prompt", schema::text()}});
  if (path == "/tokenize") {
    return schema::object(
        {{"count", schema::count()}, {"max_model_len", schema::count()}, {"tokens", schema::list_of(schema::count())}},
        {{"token_strs", schema::list_of(schema::text())}});
  }
  if (path == "/slots") return schema::list_of(schema::slot_answer());
  if (path == "/slots/") return schema::slot_action_answer();
  if (path == "/version") return schema::object({{"version", schema::text()}});
  if (path == "/health" || path == "/ready") return schema::object({{"status", schema::one_of({"ok"})}});
  if (path == "/openapi.json") return schema::type("object");
  return {};
}

OrderedJson event_schema(const std::string& path) {
  const auto choices = [](const OrderedJson& data) {
    return schema::event(schema::either({data, error_schema()}), {}, {"[DONE]"});
  };
  if (path == "/v1/chat/completions") return choices(schema::chat_event());
  if (path == "/v1/completions") {
    const OrderedJson choice = schema::completion_choice(schema::nullable(schema::finish()));
    return choices(schema::choices_event("text_completion", choice));
  }
  if (path == "/v1/messages") return schema::event(schema::message_event(), {{"event", schema::text()}});
  if (path != "/v1/responses") return {};
  const OrderedJson name = {{"type", "string"}, {"pattern", "^response\\."}};
  const OrderedJson data = {{"type", "object"},
                            {"required", {"type", "sequence_number"}},
                            {"properties", {{"type", name}, {"sequence_number", schema::count()}}}};
  return schema::event(data, {{"event", name}});
}

OrderedJson error_schema() {
  return schema::object({{"error", schema::told_error()}});
}

OrderedJson message_error_schema() {
  return schema::object({{"type", schema::one_of({"error"})},
                         {"error", schema::told_error()},
                         {"request_id", schema::nullable(schema::text())}});
}

}  // namespace metal_marlin::server
