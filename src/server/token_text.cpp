#include "server/token_text.h"

#include <algorithm>
#include <array>

#include "base/unicode.h"

namespace metal_marlin::server {
namespace {

// JSON has no infinity.
double shown(float logprob) {
  return std::max(static_cast<double>(logprob), -9999.0);
}

std::string token_text(const Tokenizer& tokenizer, TokenId id) {
  return tokenizer.decode(std::array{id}, false);
}

// null where the token is a part of a character, of which its text has no bytes.
OrderedJson bytes_of(const std::string& text) {
  if (text.find("\xEF\xBF\xBD") != text.npos) return {};
  OrderedJson bytes = OrderedJson::array();
  for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
  return bytes;
}

OrderedJson chat_token(const Tokenizer& tokenizer, TokenId id, float logprob) {
  const std::string text = token_text(tokenizer, id);
  return {{"token", text}, {"logprob", shown(logprob)}, {"bytes", bytes_of(text)}};
}

}  // namespace

OrderedJson chat_logprobs(std::span<const TokenLogprob> tokens, const Tokenizer& tokenizer) {
  OrderedJson list = OrderedJson::array();
  for (const TokenLogprob& token : tokens) {
    OrderedJson entry = chat_token(tokenizer, token.id, token.logprob);
    entry["top_logprobs"] = OrderedJson::array();
    for (const auto& [id, logprob] : token.top) entry["top_logprobs"].push_back(chat_token(tokenizer, id, logprob));
    list.push_back(std::move(entry));
  }
  return list;
}

CompletionLogprobs::CompletionLogprobs() {
  take();
}

void CompletionLogprobs::add(std::span<const TokenLogprob> tokens, const Tokenizer& tokenizer, bool begins) {
  for (const TokenLogprob& token : tokens) {
    const std::string text = token_text(tokenizer, token.id);
    lists_["text_offset"].push_back(offset_);
    offset_ += count_characters(text);
    lists_["tokens"].push_back(text);
    lists_["token_logprobs"].push_back(begins ? OrderedJson() : OrderedJson(shown(token.logprob)));
    OrderedJson top = OrderedJson::object();
    for (const auto& [id, logprob] : token.top) {  // of those that read the same the likeliest
      const std::string name = token_text(tokenizer, id);
      if (!top.contains(name)) top[name] = shown(logprob);
    }
    if (!top.contains(text)) top[text] = shown(token.logprob);  // it is one of them, whether it is likely or not
    lists_["top_logprobs"].push_back(begins ? OrderedJson() : std::move(top));
    begins = false;
  }
}

OrderedJson CompletionLogprobs::take() {
  OrderedJson empty;
  for (const char* const key : {"text_offset", "token_logprobs", "tokens", "top_logprobs"}) {
    empty[key] = OrderedJson::array();
  }
  return std::exchange(lists_, std::move(empty));
}

}  // namespace metal_marlin::server
