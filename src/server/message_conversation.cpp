// A conversation of Anthropic's API, of which messages are lists of blocks, as chat templates know conversations.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "server/api_error.h"
#include "server/chat.h"

namespace metal_marlin::server {
namespace {

// The line of a client's system prompt that says on whose account a request goes. It is for a server that bills, says
// nothing to a model, and is another one in every request: with it no prompt begins like the one before.
constexpr std::string_view kBillingLine = "x-anthropic-billing-header:";

std::string system_text(Fields& fields, bool keep_billing) {
  const OrderedJson* const system = fields.find("system");
  if (system == nullptr) return {};
  if (!system->is_string() && !system->is_array()) fields.wrong("system", "a text or a list of text blocks");
  std::string text = system->is_string() ? system->get<std::string>() : join_parts(*system, "system");
  if (keep_billing || !text.starts_with(kBillingLine)) return text;
  const std::size_t end = text.find('\n');
  return end == std::string::npos ? std::string() : text.substr(end + 1);
}

// Messages of one role that follow each other become one, as templates that ask for turns want it.
class MessageList {
 public:
  void add_system(const std::string& text) {
    if (!text.empty()) messages_.push_back({{"role", "system"}, {"content", text}});
  }

  void read(const OrderedJson& value, const std::string& name) {
    Fields fields(value, name);
    const std::string role = fields.choice("role", kMessageRoles);
    const OrderedJson* const content = fields.find("content");
    if (content == nullptr || (!content->is_string() && !content->is_array()))
      fields.wrong("content", "a text or a list of blocks");
    if (content->is_string()) return add_text(role, content->get<std::string>());
    if (content->empty()) open(role);  // a turn in which nothing is said
    for (std::size_t i = 0; i < content->size(); ++i) {
      Fields block((*content)[i], fmt::format("{}[{}]", fields.name_of("content"), i));
      read_block(block, role);
    }
  }

  [[nodiscard]] OrderedJson take() { return std::move(messages_); }

 private:
  void read_block(Fields& block, const std::string& role) {
    const std::string type = block.text("type").value_or("");
    if (type == "text") return add_text(role, required_text(block, "text"));
    if (role == "user" && type == "tool_result") return read_result(block);
    if (role == "assistant" && type == "tool_use") return read_call(block);
    if (role == "assistant" && type == "thinking") {
      append(open(role), "reasoning_content", required_text(block, "thinking"));
    } else if (role == "assistant" && type == "redacted_thinking") {
      open(role);  // nobody here can read it
    } else {
      refuse(block, type, role);
    }
  }

  [[noreturn]] static void refuse(Fields& block, const std::string& type, const std::string& role) {
    const char* const known = role == "user"        ? "text and tool_result"
                              : role == "assistant" ? "text, thinking, redacted_thinking and tool_use"
                                                    : "text";
    throw ApiError(400,
                   fmt::format("{} is {}: models take text alone here, the role {} has blocks of {}",
                               block.name_of("type"), OrderedJson(type).dump(), role, known),
                   block.name_of("type"), "unsupported_content");
  }

  static std::string required_text(Fields& block, const char* key) {
    const auto text = block.text(key);
    if (!text) block.wrong(key, "a text");
    return *text;
  }

  OrderedJson& open(const std::string& role) {
    if (messages_.empty() || messages_.back()["role"] != role)
      messages_.push_back({{"role", role}, {"content", nullptr}});
    return messages_.back();
  }

  static void append(OrderedJson& message, const char* key, const std::string& text) {
    OrderedJson& value = message[key];
    value = value.is_string() ? value.get<std::string>() + "\n" + text : text;
  }

  void add_text(const std::string& role, const std::string& text) { append(open(role), "content", text); }

  void read_call(Fields& block) {
    const std::string id = required_text(block, "id");
    const std::string name = required_text(block, "name");
    if (name.empty()) block.wrong("name", "the name of a tool");
    const OrderedJson* const input = block.find("input");
    if (input == nullptr || !input->is_object()) block.wrong("input", "an object");
    calls_.insert(id);
    open("assistant")["tool_calls"].push_back(
        {{"id", id}, {"type", "function"}, {"function", {{"name", name}, {"arguments", *input}}}});
  }

  void read_result(Fields& block) {
    const std::string id = required_text(block, "tool_use_id");
    if (!calls_.contains(id)) {
      throw conflict(fmt::format("{} is of no tool_use before it", block.name_of("tool_use_id")),
                     block.name_of("tool_use_id"));
    }
    const OrderedJson* const content = block.find("content");
    std::string text;
    if (content != nullptr && content->is_array()) {
      text = join_parts(*content, block.name_of("content"));
    } else if (content != nullptr) {
      text = required_text(block, "content");
    }
    // Templates have no other place for it.
    if (block.boolean("is_error", false)) text = "Error: " + text;
    messages_.push_back({{"role", "tool"}, {"tool_call_id", id}, {"content", std::move(text)}});
  }

  OrderedJson messages_ = OrderedJson::array();
  std::set<std::string> calls_;
};

OrderedJson read_turns(Fields& fields, bool keep_billing) {
  MessageList turns;
  turns.add_system(system_text(fields, keep_billing));
  const OrderedJson* const list = fields.find("messages");
  if (list == nullptr || !list->is_array() || list->empty()) fields.wrong("messages", "a list of at least one message");
  for (std::size_t i = 0; i < list->size(); ++i) turns.read((*list)[i], fmt::format("messages[{}]", i));
  OrderedJson messages = turns.take();
  for (OrderedJson& message : messages) {
    if (message["content"].is_null() && !message.contains("tool_calls")) message["content"] = "";
  }
  return messages;
}

// Without a word of it there are no thoughts, as clients of this API expect.
Thinking read_thinking(Fields& fields, ChatOptions& options) {
  Thinking thinking;
  bool thinks = false;
  if (auto asked = fields.object("thinking")) {
    constexpr std::array<std::string_view, 3> types = {"enabled", "disabled", "adaptive"};
    constexpr std::array<std::string_view, 2> displays = {"summarized", "omitted"};
    const std::string type = asked->choice("type", types);
    thinks = type != "disabled";
    if (type == "enabled") {
      const auto budget = asked->integer("budget_tokens", 1, INT32_MAX);
      if (!budget) asked->wrong("budget_tokens", "an integer of at least 1");
      thinking.budget = static_cast<int>(*budget);
    }
    if (thinks && asked->find("display") != nullptr)
      thinking.is_shown = asked->choice("display", displays) == "summarized";
    asked->refuse_others({});
  }
  // Templates call it one or the other.
  for (const char* const name : {"enable_thinking", "thinking"})
    options.variables.emplace_back(name, thinks ? "true" : "false");
  return thinking;
}

}  // namespace

Conversation read_message_conversation(Fields& fields, bool keep_billing) {
  Conversation conversation{read_turns(fields, keep_billing), {}, read_tools(fields, ToolStyle::kMessage), {}};
  ChatOptions& options = conversation.options;
  const OrderedJson& last = conversation.messages.back();
  if (last["role"] == "assistant") {  // the answer goes on from it
    if (last.contains("tool_calls"))
      throw conflict("messages: the last one calls tools, and what came of them is missing", "messages");
    options.continue_final_message = true;
    options.add_generation_prompt = false;
  }
  conversation.thinking = read_thinking(fields, options);
  if (auto output = fields.object("output_config")) {
    if (const auto effort = output->text("effort")) add_reasoning_effort(*effort, options);
  }
  add_template_variables(fields, options);
  return conversation;
}

}  // namespace metal_marlin::server
