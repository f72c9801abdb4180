// Tokens and their probabilities, as answers show them.
#pragma once

#include <span>

#include "server/service.h"

namespace metal_marlin::server {

// As chat completions have them: a list of {"token", "logprob", "bytes", "top_logprobs"}.
OrderedJson chat_logprobs(std::span<const TokenLogprob> tokens, const Tokenizer& tokenizer);

// As completions have them: lists side by side.
class CompletionLogprobs {
 public:
  CompletionLogprobs();
  // \param begins the first token has nothing before it, and so no probability.
  void add(std::span<const TokenLogprob> tokens, const Tokenizer& tokenizer, bool begins = false);
  // What was added since the last call.
  OrderedJson take();

 private:
  OrderedJson lists_;
  std::size_t offset_ = 0;  // bytes of the texts before
};

}  // namespace metal_marlin::server
