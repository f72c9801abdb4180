// /v1/messages and /v1/messages/count_tokens: Anthropic's API.
#include <fmt/format.h>

#include <array>

#include "server/api_error.h"
#include "server/chat.h"
#include "server/grammar_request.h"
#include "server/message_answer.h"
#include "server/routes.h"

namespace metal_marlin::server {
namespace {

// It says nothing to us, but must be what it is.
void check_metadata(Fields& fields) {
  auto metadata = fields.object("metadata");
  if (!metadata) return;
  metadata->text("user_id");
  metadata->refuse_others({});
}

// As the API has it, an answer ends with the context where that has less room than max_tokens; and clients know by
// this message of a prompt that they must shorten theirs.
void fit_context(MessageRequest& request, const ServedModel& model) {
  EngineRequest& engine = request.options.engine;
  const std::int64_t context = model.engine->plan().context;
  const auto size = static_cast<std::int64_t>(engine.prompt.size());
  if (size >= context) {
    throw ApiError(400, fmt::format("prompt is too long: {} tokens > {} maximum", size, context - 1), "messages",
                   "context_length_exceeded");
  }
  request.is_cut_by_context = *engine.max_tokens > context - size;
  if (request.is_cut_by_context) engine.max_tokens = static_cast<int>(context - size);
}

}  // namespace

void answer_messages(Service& service, const Call& call) {
  const OrderedJson body = parse_body(call.request().body);
  Fields fields(body);
  const ServedModel& model = service.model(call, fields.text("model").value_or(""));
  MessageRequest request;
  request.options = read_message_options(fields, model.info());
  EngineRequest& engine = request.options.engine;
  constexpr std::array<const char*, 1> limits = {"max_tokens"};
  engine.max_tokens = read_max_tokens(fields, limits, 1);
  if (!engine.max_tokens) fields.wrong("max_tokens", "an integer of at least 1");
  check_metadata(fields);
  const std::optional<GrammarText> grammar = read_message_grammar(fields);
  Conversation conversation = read_message_conversation(fields, service.keep_billing_line);
  request.thinking = conversation.thinking;
  if (request.thinking.budget && *request.thinking.budget >= *engine.max_tokens)
    throw conflict(fmt::format("thinking.budget_tokens is {}, expected less than max_tokens", *request.thinking.budget),
                   "thinking.budget_tokens");
  ChatPrompt prompt = render_chat(conversation, model);
  refuse_unsupported(fields, Api::kAnthropic);
  engine.tokenizer = model.marked;
  if (!add_grammar(service, call, model, grammar, answer_messages, engine)) return;
  if (!add_tools(service, call, conversation.tools, model, answer_messages, engine)) return;
  request.tools = std::move(conversation.tools);
  request.in_thought = prompt.in_thought;
  engine.thought = thought_before(prompt, model);
  engine.prompt = std::move(prompt.tokens);
  engine.fair_key = call.fair_key;
  fit_context(request, model);
  check_request(engine, model, "messages", "max_tokens");
  if (service.log.with_prompts()) call.log->set("prompt", body["messages"]);
  refuse_while_draining(service);
  try {
    std::make_shared<MessageAnswer>(service, model, call, std::move(request))->start();
  } catch (const Error& error) {
    throw to_api_error(error, error.code() == ErrorCode::kInvalidArgument ? "messages" : "");
  }
}

void answer_count_tokens(Service& service, const Call& call) {
  const OrderedJson body = parse_body(call.request().body);
  Fields fields(body);
  const ServedModel& model = service.model(call, fields.text("model").value_or(""));
  read_message_grammar(fields);  // says nothing to the model
  const Conversation conversation = read_message_conversation(fields, service.keep_billing_line);
  const std::size_t count = render_chat(conversation, model).tokens.size();
  refuse_unsupported(fields, Api::kAnthropic);
  call.exchange->respond(200, "application/json", json_text({{"input_tokens", count}}));
}

}  // namespace metal_marlin::server
