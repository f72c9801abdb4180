#include "server/chat.h"

#include <fmt/format.h>

#include <algorithm>

#include "server/api_error.h"

namespace metal_marlin::server {

std::string join_parts(const OrderedJson& parts, const std::string& name) {
  std::string text;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    Fields part(parts[i], fmt::format("{}[{}]", name, i));
    const std::string type = part.text("type").value_or("text");
    if (type != "text") {
      throw ApiError(400, fmt::format("{} is {}: models take text alone here", part.name_of("type"), type),
                     part.name_of("type"), "unsupported_content");
    }
    const auto piece = part.text("text");
    if (!piece) part.wrong("text", "a text");
    text += (i > 0 ? "\n" : "") + *piece;
  }
  return text;
}

namespace {

// A call as messages had it before there were tools. \returns whether there is one.
bool read_legacy_call(Fields& fields, OrderedJson& message) {
  message.erase("function_call");
  auto call = fields.object("function_call");
  if (!call) return false;
  const auto name = call->text("name");
  if (!name || name->empty()) call->wrong("name", "the name of a function");
  if (fields.find("tool_calls") != nullptr)
    throw conflict(fmt::format("{} and tool_calls: expected one of them", fields.name_of("function_call")),
                   fields.name_of("function_call"));
  OrderedJson function = {{"name", *name}, {"arguments", call->text("arguments").value_or("")}};
  message["tool_calls"] = OrderedJson::array();
  message["tool_calls"].push_back({{"type", "function"}, {"function", std::move(function)}});
  return true;
}

// What the template sees of a message: its content as one text, and all other fields as they are.
OrderedJson read_message(const OrderedJson& value, const std::string& name) {
  Fields fields(value, name);
  OrderedJson message = value;
  const std::string role = fields.choice("role", kRoles);
  if (role == "developer") message["role"] = "system";  // their names in templates
  if (role == "function") message["role"] = "tool";
  const bool is_legacy = read_legacy_call(fields, message);
  const OrderedJson* const content = fields.find("content");
  const OrderedJson* const calls = fields.find("tool_calls");
  if (calls != nullptr && !calls->is_array()) fields.wrong("tool_calls", "a list");
  if (content == nullptr) {
    if (calls == nullptr && !is_legacy) fields.wrong("content", "a text or a list of parts");
  } else if (content->is_array()) {
    message["content"] = join_parts(*content, fields.name_of("content"));
  } else if (!content->is_string()) {
    fields.wrong("content", "a text or a list of parts");
  }
  return message;
}

OrderedJson read_messages(Fields& fields) {
  const OrderedJson* const list = fields.find("messages");
  if (list == nullptr || !list->is_array() || list->empty()) fields.wrong("messages", "a list of at least one message");
  OrderedJson messages = OrderedJson::array();
  for (std::size_t i = 0; i < list->size(); ++i) {
    messages.push_back(read_message((*list)[i], fmt::format("{}[{}]", fields.name_of("messages"), i)));
  }
  return messages;
}

}  // namespace

void add_reasoning_effort(const std::string& effort, ChatOptions& options) {
  options.variables.emplace_back("reasoning_effort", json_text(OrderedJson(effort)));
  if (effort == "none") options.variables.emplace_back("enable_thinking", "false");
}

void add_template_variables(Fields& fields, ChatOptions& options) {
  const OrderedJson* const kwargs = fields.find("chat_template_kwargs");
  if (kwargs == nullptr) return;
  if (!kwargs->is_object()) fields.wrong("chat_template_kwargs", "an object");
  for (const auto& [name, value] : kwargs->items()) {
    if (is_reserved_variable(name)) {
      throw ApiError(400, fmt::format("chat_template_kwargs.{} is not a variable to be set", name),
                     "chat_template_kwargs");
    }
    std::erase_if(options.variables, [&key = name](const auto& variable) { return variable.first == key; });
    options.variables.emplace_back(name, json_text(value));
  }
}

Conversation read_conversation(Fields& fields) {
  Conversation conversation{read_messages(fields), {}, read_tools(fields, ToolStyle::kChat), {}};
  ChatOptions& options = conversation.options;
  options.continue_final_message = fields.boolean("continue_final_message", false);
  options.add_generation_prompt = fields.boolean("add_generation_prompt", !options.continue_final_message);
  if (options.continue_final_message && options.add_generation_prompt) {
    throw conflict("continue_final_message and add_generation_prompt cannot both be true", "continue_final_message");
  }
  if (options.continue_final_message && conversation.messages.back()["role"] != "assistant") {
    throw conflict("continue_final_message: the last message is not the assistant's", "continue_final_message");
  }
  if (const auto effort = fields.text("reasoning_effort")) add_reasoning_effort(*effort, options);
  add_template_variables(fields, options);
  return conversation;
}

// Without the folder that the template lies in, which is nothing for clients.
std::string without_folder(const std::string& message) {
  const std::size_t slash = message.rfind('/', message.find(": "));
  return slash == std::string::npos ? message : message.substr(slash + 1);
}

ChatPrompt render_chat(const Conversation& conversation, const ServedModel& model) {
  if (!model.chat) {
    throw ApiError(400, fmt::format("model {} has no chat template", model.name), "model", "no_chat_template");
  }
  ChatPrompt prompt;
  try {
    ChatOptions options = conversation.options;
    if (!conversation.tools.shown.empty()) options.tools = json_text(conversation.tools.shown);
    prompt.text = model.chat->render(json_text(with_calls(conversation.messages, model)), options);
  } catch (const Error& error) {
    ApiError refused = to_api_error(Error(error.code(), without_folder(error.what())), "messages");
    if (refused.status == 400) refused.code = "template_error";
    throw refused;
  }
  prompt.tokens = model.tokenizer->encode(prompt.text, {.add_special = false, .parse_special = true});
  prompt.in_thought =
      model.reasoning && ends_in_thought(prompt.text, *model.reasoning, conversation.options.continue_final_message);
  return prompt;
}

std::optional<GrammarThought> thought_before(const ChatPrompt& prompt, const ServedModel& model) {
  if (!model.reasoning) return std::nullopt;
  return GrammarThought{model.reasoning->open, model.reasoning->close, prompt.in_thought};
}

}  // namespace metal_marlin::server
