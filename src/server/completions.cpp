// /v1/completions and /v1/chat/completions: from the body to what the engine is asked for.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "server/api_error.h"
#include "server/chat.h"
#include "server/choices_answer.h"
#include "server/grammar_request.h"
#include "server/routes.h"

namespace metal_marlin::server {
namespace {

// A prompt as it came: a text, or tokens.
struct Prompt {
  std::string text;
  std::vector<TokenId> tokens;
};

Prompt text_prompt(std::string text, const ServedModel& model) {
  Prompt prompt;
  prompt.tokens = model.tokenizer->encode(text);
  prompt.text = std::move(text);
  return prompt;
}

Prompt token_prompt(const OrderedJson& list, const ServedModel& model, const std::string& name) {
  Prompt prompt;
  prompt.tokens = token_list(list, model.vocabulary(), name);
  prompt.text = model.tokenizer->decode(prompt.tokens);
  return prompt;
}

// A text, a list of token ids, or a list of either.
std::vector<Prompt> read_prompts(Fields& fields, const ServedModel& model) {
  const OrderedJson* const value = fields.find("prompt");
  constexpr const char* expected = "a text, token ids, or a list of either";
  if (value == nullptr) fields.wrong("prompt", expected);
  if (value->is_string()) return {text_prompt(value->get<std::string>(), model)};
  if (!value->is_array() || value->empty()) fields.wrong("prompt", expected);
  if (value->front().is_number()) return {token_prompt(*value, model, "prompt")};
  if (static_cast<std::int64_t>(value->size()) > kMaxChoices) {
    fields.wrong("prompt", fmt::format("at most {} prompts", kMaxChoices));
  }
  std::vector<Prompt> prompts;
  for (std::size_t i = 0; i < value->size(); ++i) {
    const OrderedJson& item = (*value)[i];
    const std::string name = fmt::format("prompt[{}]", i);
    if (!item.is_string() && !item.is_array())
      throw ApiError(400, fmt::format("{} is {}, expected a text or a list of token ids", name, shown_json(item)),
                     name);
    prompts.push_back(item.is_string() ? text_prompt(item.get<std::string>(), model) : token_prompt(item, model, name));
  }
  return prompts;
}

// What is generated where max_tokens is not said, as far as the context has room for it.
constexpr int kUsualTokens = 16;

int room_after(const std::vector<TokenId>& prompt, const ServedModel& model) {
  return static_cast<int>(model.engine->plan().context - static_cast<std::int64_t>(prompt.size()));
}

void log_prompt(const Service& service, const Call& call, const OrderedJson& prompt) {
  if (service.log.with_prompts()) call.log->set("prompt", prompt);
}

void start(Service& service, const ServedModel& model, const Call& call, ChoicesRequest request) {
  refuse_while_draining(service);
  const std::string param = request.chat ? "messages" : "prompt";
  try {
    std::make_shared<ChoicesAnswer>(service, model, call, std::move(request))->start();
  } catch (const Error& error) {
    throw to_api_error(error, error.code() == ErrorCode::kInvalidArgument ? param : "");
  }
}

}  // namespace

void answer_completions(Service& service, const Call& call) {
  const OrderedJson body = parse_body(call.request().body);
  Fields fields(body);
  const ServedModel& model = service.model(call, fields.text("model").value_or(""));
  ChoicesRequest request;
  request.options = read_text_options(fields, model.info());
  const std::vector<Prompt> prompts = read_prompts(fields, model);
  constexpr std::array<const char*, 1> limits = {"max_tokens"};
  const std::optional<int> most = read_max_tokens(fields, limits, 0);
  const bool echo = fields.boolean("echo", false);
  const std::optional<GrammarText> grammar = read_grammar(fields);
  EngineRequest& engine = request.options.engine;
  engine.logprobs = static_cast<int>(fields.integer("logprobs", 0, kMaxLogprobs).value_or(-1));
  refuse_unsupported(fields);
  if (most == 0 && !echo) throw conflict("max_tokens is 0, expected at least 1 where echo is not true", "max_tokens");
  if (most == 0 && engine.samples > 1) throw conflict("n is for answers, of which max_tokens: 0 asks for none", "n");
  if (static_cast<std::int64_t>(prompts.size()) * engine.samples > kMaxChoices) {
    throw conflict(fmt::format("n: expected at most {} answers of all prompts", kMaxChoices), "n");
  }
  engine.fair_key = call.fair_key;
  if (!add_grammar(service, call, model, grammar, answer_completions, engine)) return;
  for (const Prompt& prompt : prompts) {
    EngineRequest next = engine;
    next.prompt = prompt.tokens;
    next.max_tokens = most.value_or(std::min(kUsualTokens, room_after(prompt.tokens, model)));
    check_request(next, model, "prompt", "max_tokens");
    next.prompt_logprobs = echo && (engine.logprobs >= 0 || most == 0);
    if (next.prompt_logprobs) next.logprobs = std::max(0, engine.logprobs);
    request.prompts.push_back(std::move(next));
    if (echo) request.echo.push_back(prompt.text);
  }
  log_prompt(service, call, body["prompt"]);
  start(service, model, call, std::move(request));
}

void answer_chat_completions(Service& service, const Call& call) {
  const OrderedJson body = parse_body(call.request().body);
  Fields fields(body);
  const ServedModel& model = service.model(call, fields.text("model").value_or(""));
  ChoicesRequest request;
  request.chat = true;
  request.options = read_text_options(fields, model.info());
  EngineRequest& engine = request.options.engine;
  constexpr std::array<const char*, 2> limits = {"max_completion_tokens", "max_tokens"};
  engine.max_tokens = read_max_tokens(fields, limits, 1);
  const bool logprobs = fields.boolean("logprobs", false);
  const auto top = fields.integer("top_logprobs", 0, kMaxLogprobs);
  if (top && !logprobs) throw conflict("top_logprobs needs logprobs: true", "top_logprobs");
  if (logprobs) engine.logprobs = static_cast<int>(top.value_or(0));
  request.with_thoughts = fields.boolean("separate_reasoning", true);
  if (request.with_thoughts) request.reasoning = model.reasoning;
  if (const auto budget = fields.integer("thinking_budget", 1, INT32_MAX)) {
    if (engine.samples > 1) throw conflict("thinking_budget is for one answer, n is more", "thinking_budget");
    if (!request.reasoning)
      throw conflict("thinking_budget needs separate_reasoning, and a model whose chat template has thoughts",
                     "thinking_budget");
    request.thinking_budget = static_cast<int>(*budget);
  }
  const std::optional<GrammarText> grammar = read_grammar(fields);
  Conversation conversation = read_conversation(fields);
  ChatPrompt prompt = render_chat(conversation, model);
  refuse_unsupported(fields);
  engine.tokenizer = model.marked;
  if (!add_grammar(service, call, model, grammar, answer_chat_completions, engine)) return;
  if (!add_tools(service, call, conversation.tools, model, answer_chat_completions, engine)) return;
  request.tools = std::move(conversation.tools);
  if (request.tools.may_call()) request.reasoning = model.reasoning;  // what a thought quotes is no call
  request.in_thought = prompt.in_thought;
  engine.thought = thought_before(prompt, model);
  engine.fair_key = call.fair_key;
  EngineRequest next = engine;
  next.prompt = std::move(prompt.tokens);
  check_request(next, model, "messages",
                fields.find("max_completion_tokens") != nullptr ? "max_completion_tokens" : "max_tokens");
  request.prompts.push_back(std::move(next));
  log_prompt(service, call, body["messages"]);
  start(service, model, call, std::move(request));
}

}  // namespace metal_marlin::server
