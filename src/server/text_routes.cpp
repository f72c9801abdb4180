// Routes about texts that ask nothing of the engine.
#include <array>

#include "server/api_error.h"
#include "server/chat.h"
#include "server/routes.h"

namespace metal_marlin::server {
namespace {

constexpr std::string_view kJsonType = "application/json";

struct Body {
  OrderedJson json;
  Fields fields{json};
  explicit Body(const Call& call) : json(parse_body(call.request().body)) {}
};

}  // namespace

void answer_tokenize(Service& service, const Call& call) {
  Body body(call);
  const ServedModel& model = service.model(call, body.fields.text("model").value_or(""));
  std::vector<TokenId> tokens;
  if (body.fields.find("messages") != nullptr) {
    if (body.fields.find("prompt") != nullptr) {
      throw conflict("prompt and messages: expected one of them", "prompt");
    }
    tokens = render_chat(read_conversation(body.fields), model).tokens;
  } else {
    const auto prompt = body.fields.text("prompt");
    if (!prompt) body.fields.wrong("prompt", "a text, or messages in its place");
    tokens = model.tokenizer->encode(*prompt, {.add_special = body.fields.boolean("add_special_tokens", true),
                                               .parse_special = body.fields.boolean("parse_special", true)});
  }
  const bool texts = body.fields.boolean("return_token_strs", false);
  body.fields.refuse_others({});
  OrderedJson answer = {{"count", tokens.size()}, {"max_model_len", model.engine->plan().context}, {"tokens", tokens}};
  if (texts) {
    answer["token_strs"] = OrderedJson::array();
    for (const TokenId id : tokens) answer["token_strs"].push_back(model.tokenizer->decode(std::array{id}, false));
  }
  call.exchange->respond(200, kJsonType, json_text(answer));
}

void answer_detokenize(Service& service, const Call& call) {
  Body body(call);
  const ServedModel& model = service.model(call, body.fields.text("model").value_or(""));
  if (body.fields.find("tokens") == nullptr) body.fields.wrong("tokens", "a list of token ids");
  const auto tokens = body.fields.token_ids("tokens", model.vocabulary());
  const bool skip_special = body.fields.boolean("skip_special_tokens", false);
  body.fields.refuse_others({});
  call.exchange->respond(200, kJsonType, json_text({{"prompt", model.tokenizer->decode(tokens, skip_special)}}));
}

void answer_apply_template(Service& service, const Call& call) {
  Body body(call);
  const ServedModel& model = service.model(call, body.fields.text("model").value_or(""));
  const ChatPrompt prompt = render_chat(read_conversation(body.fields), model);
  body.fields.refuse_others({});
  call.exchange->respond(200, kJsonType, json_text({{"prompt", prompt.text}}));
}

}  // namespace metal_marlin::server
