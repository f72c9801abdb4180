// /v1/responses: a conversation of items to a response of items.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "server/api_error.h"
#include "server/chat.h"
#include "server/grammar_request.h"
#include "server/response_answer.h"
#include "server/routes.h"

namespace metal_marlin::server {
namespace {

// The texts of an item's parts, of one of these types each.
std::string part_texts(Fields& item, const char* key, std::span<const std::string_view> types) {
  const OrderedJson* const content = item.find(key);
  if (content != nullptr && content->is_string()) return content->get<std::string>();
  if (content == nullptr || !content->is_array()) item.wrong(key, "a text or a list of parts");
  std::string text;
  for (std::size_t i = 0; i < content->size(); ++i) {
    Fields part((*content)[i], fmt::format("{}[{}]", item.name_of(key), i));
    const std::string type = part.text("type").value_or("");
    if (std::find(types.begin(), types.end(), type) == types.end())
      part.wrong("type", fmt::format("one of {}", fmt::join(types, ", ")));
    const auto piece = part.text("text");
    if (!piece) part.wrong("text", "a text");
    text += (text.empty() ? "" : "\n") + *piece;
  }
  return text;
}

// Calls that follow each other, or what was said before them, are one message.
void read_call(Fields& item, OrderedJson& messages, std::string& thought) {
  const auto id = item.text("call_id");
  const auto name = item.text("name");
  const auto arguments = item.text("arguments");
  if (!id) item.wrong("call_id", "a text");
  if (!name || name->empty()) item.wrong("name", "the name of a function");
  if (messages.empty() || messages.back()["role"] != "assistant")
    messages.push_back({{"role", "assistant"}, {"content", nullptr}});
  OrderedJson& message = messages.back();
  if (!thought.empty()) message["reasoning_content"] = std::exchange(thought, {});
  message["tool_calls"].push_back(
      {{"id", *id}, {"type", "function"}, {"function", {{"name", *name}, {"arguments", arguments.value_or("")}}}});
}

OrderedJson read_output(Fields& item) {
  constexpr std::array<std::string_view, 3> types = {"input_text", "output_text", "text"};
  const auto id = item.text("call_id");
  if (!id) item.wrong("call_id", "a text");
  return {{"role", "tool"}, {"tool_call_id", *id}, {"content", part_texts(item, "output", types)}};
}

// A message, a call or what came of it, or a thought: it belongs to the message of the assistant that follows.
void read_item(const OrderedJson& value, const std::string& name, OrderedJson& messages, std::string& thought) {
  constexpr std::array<std::string_view, 3> text_types = {"input_text", "output_text", "text"};
  constexpr std::array<std::string_view, 1> thought_types = {"reasoning_text"};
  Fields item(value, name);
  const std::string type = item.text("type").value_or("message");
  if (type == "reasoning") {
    if (item.find("content") != nullptr) thought = part_texts(item, "content", thought_types);
    return;
  }
  if (type == "function_call") return read_call(item, messages, thought);
  if (type == "function_call_output") {
    messages.push_back(read_output(item));
    return;
  }
  if (type != "message") item.wrong("type", "one of message, reasoning, function_call, function_call_output");
  const std::string role = item.choice("role", kResponseRoles);
  OrderedJson message = {{"role", role == "developer" ? "system" : role},
                         {"content", part_texts(item, "content", text_types)}};
  if (role == "assistant" && !thought.empty()) message["reasoning_content"] = std::exchange(thought, {});
  messages.push_back(std::move(message));
}

OrderedJson read_input(Fields& fields) {
  OrderedJson messages = OrderedJson::array();
  if (const auto instructions = fields.text("instructions")) {
    messages.push_back({{"role", "system"}, {"content", *instructions}});
  }
  const OrderedJson* const input = fields.find("input");
  if (input != nullptr && input->is_string()) {
    messages.push_back({{"role", "user"}, {"content", *input}});
    return messages;
  }
  if (input == nullptr || !input->is_array() || input->empty())
    fields.wrong("input", "a text or a list of at least one item");
  const std::size_t before = messages.size();
  std::string thought;
  for (std::size_t i = 0; i < input->size(); ++i) {
    read_item((*input)[i], fmt::format("input[{}]", i), messages, thought);
  }
  if (messages.size() == before) fields.wrong("input", "a message among its items");
  return messages;
}

// They are asked for by `include`, and how many others by `top_logprobs`.
void read_logprobs(Fields& fields, EngineRequest& engine) {
  const auto top = fields.integer("top_logprobs", 0, kMaxLogprobs);
  const OrderedJson* const include = fields.find("include");
  if (include != nullptr && !include->is_array()) fields.wrong("include", "a list");
  for (const OrderedJson& item : include == nullptr ? OrderedJson::array() : *include) {
    if (item != kIncludeLogprobs) {
      throw ApiError(400, fmt::format("include: {} alone can be included here", kIncludeLogprobs), "include",
                     "unsupported_parameter");
    }
    engine.logprobs = static_cast<int>(top.value_or(0));
  }
  if (top.value_or(0) > 0 && engine.logprobs < 0)
    throw conflict(fmt::format("top_logprobs needs {} in include", kIncludeLogprobs), "top_logprobs");
}

// As the request has it; without a format it is text.
OrderedJson shown_text(const OrderedJson& body) {
  OrderedJson text = body.value("text", OrderedJson());
  if (!text.is_object()) text = OrderedJson::object();
  if (text.value("format", OrderedJson()).is_null()) text["format"] = {{"type", "text"}};
  return text;
}

}  // namespace

Conversation read_response_conversation(Fields& fields) {
  Conversation conversation{read_input(fields), {}, read_tools(fields, ToolStyle::kResponse), {}};
  if (auto reasoning = fields.object("reasoning")) {
    if (const auto effort = reasoning->text("effort")) add_reasoning_effort(*effort, conversation.options);
    constexpr std::array<std::string_view, 2> harmless = {"summary", "generate_summary"};
    reasoning->refuse_others(harmless);
  }
  add_template_variables(fields, conversation.options);
  return conversation;
}

void answer_responses(Service& service, const Call& call) {
  const OrderedJson body = parse_body(call.request().body);
  Fields fields(body);
  const ServedModel& model = service.model(call, fields.text("model").value_or(""));
  ResponseRequest request;
  request.options = read_text_options(fields, model.info());
  EngineRequest& engine = request.options.engine;
  if (engine.samples != 1) fields.wrong("n", "1: a response is one");
  constexpr std::array<const char*, 1> limits = {"max_output_tokens"};
  engine.max_tokens = read_max_tokens(fields, limits, 1);
  read_logprobs(fields, engine);
  const std::optional<GrammarText> grammar = read_response_grammar(fields);
  Conversation conversation = read_response_conversation(fields);
  const ChatPrompt prompt = render_chat(conversation, model);
  refuse_unsupported(fields);
  engine.tokenizer = model.marked;
  if (!add_grammar(service, call, model, grammar, answer_responses, engine)) return;
  if (!add_tools(service, call, conversation.tools, model, answer_responses, engine)) return;
  request.tools = std::move(conversation.tools);
  engine.thought = thought_before(prompt, model);
  engine.prompt = prompt.tokens;
  check_request(engine, model, "input", "max_output_tokens");
  engine.fair_key = call.fair_key;
  request.in_thought = prompt.in_thought;
  const OrderedJson shown = {
      {"instructions", body.value("instructions", OrderedJson())},
      {"max_output_tokens", body.value("max_output_tokens", OrderedJson())},
      {"metadata", body.value("metadata", OrderedJson::object())},
      {"parallel_tool_calls", request.tools.parallel},
      {"tool_choice", request.tools.asked_choice},
      {"tools", body.contains("tools") && body["tools"].is_array() ? body["tools"] : OrderedJson::array()},
      {"reasoning", body.value("reasoning", OrderedJson::object())},
      {"text", shown_text(body)}};
  if (service.log.with_prompts()) call.log->set("prompt", body["input"]);
  refuse_while_draining(service);
  try {
    std::make_shared<ResponseAnswer>(service, model, call, std::move(request), shown)->start();
  } catch (const Error& error) {
    throw to_api_error(error, error.code() == ErrorCode::kInvalidArgument ? "input" : "");
  }
}

}  // namespace metal_marlin::server
