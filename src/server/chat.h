// A conversation in a request to the prompt that the model's template makes of it.
#pragma once

#include <array>

#include "server/fields.h"
#include "server/service.h"
#include "server/tools.h"

namespace metal_marlin::server {

// Who a message may be of, in a chat, in Anthropic's API and in a response.
constexpr std::array<std::string_view, 6> kRoles = {"system", "developer", "user", "assistant", "tool", "function"};
constexpr std::array<std::string_view, 3> kMessageRoles = {"user", "assistant", "system"};
constexpr std::array<std::string_view, 4> kResponseRoles = {"system", "developer", "user", "assistant"};

// What a response can include beside its text.
constexpr std::string_view kIncludeLogprobs = "message.output_text.logprobs";

struct ChatPrompt {
  std::string text;
  std::vector<TokenId> tokens;
  bool in_thought = false;  // it ends where the model goes on thinking
};

// What a request says of thoughts, beside what its template is told.
struct Thinking {
  std::optional<int> budget;  // most tokens of one
  bool is_shown = true;       // else there are thoughts in the answer, but not their texts
};

// What the template is given of a request for a chat: messages, tools, tool_choice, add_generation_prompt,
// continue_final_message, chat_template_kwargs and reasoning_effort. \throws ApiError naming the field.
struct Conversation {
  OrderedJson messages;
  ChatOptions options;
  Tools tools;
  Thinking thinking;  // of Anthropic's API alone
};
Conversation read_conversation(Fields& fields);
// Of a response: input, instructions, reasoning, chat_template_kwargs.
Conversation read_response_conversation(Fields& fields);
// Of Anthropic's API: system, messages, tools, tool_choice, thinking, output_config.effort, chat_template_kwargs.
// `keep_billing`: a line that says who pays stays at the beginning of `system`.
Conversation read_message_conversation(Fields& fields, bool keep_billing);

// A content of parts as one text, a line for each. \throws ApiError for a part that is none.
std::string join_parts(const OrderedJson& parts, const std::string& name);

ChatPrompt render_chat(const Conversation& conversation, const ServedModel& model);
// What may come before the text of a grammar.
std::optional<GrammarThought> thought_before(const ChatPrompt& prompt, const ServedModel& model);

// Sets what templates call so; "none" asks for no thoughts.
void add_reasoning_effort(const std::string& effort, ChatOptions& options);
// Reads chat_template_kwargs. \throws ApiError naming the field.
void add_template_variables(Fields& fields, ChatOptions& options);

}  // namespace metal_marlin::server
