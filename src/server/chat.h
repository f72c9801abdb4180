// A conversation in a request to the prompt that the model's template makes of it.
#pragma once

#include "server/fields.h"
#include "server/service.h"

namespace metal_marlin::server {

struct ChatPrompt {
  std::string text;
  std::vector<TokenId> tokens;
  bool in_thought = false;  // it ends where the model goes on thinking
};

// Reads messages, add_generation_prompt, continue_final_message, chat_template_kwargs and reasoning_effort.
// \throws ApiError naming the field.
ChatPrompt read_chat_prompt(Fields& fields, const ServedModel& model);

// Sets what templates call so; "none" asks for no thoughts.
void add_reasoning_effort(const std::string& effort, ChatOptions& options);
// Reads chat_template_kwargs. \throws ApiError naming the field.
void add_template_variables(Fields& fields, ChatOptions& options);

// The same of messages that were checked already.
ChatPrompt render_chat(const OrderedJson& messages, const ServedModel& model, const ChatOptions& options);

}  // namespace metal_marlin::server
