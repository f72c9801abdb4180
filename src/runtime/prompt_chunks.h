// How much of prompts goes into a step, from how long steps took.
#pragma once

#include <chrono>

namespace metal_marlin {

class PromptChunks {
 public:
  // delay: how much longer a step may take because of prompts while others wait for their next token.
  explicit PromptChunks(std::chrono::duration<double> delay) : delay_(delay.count()) {}

  // Most tokens of prompts in the next step, at least 1. decoding: whether others wait for their next token.
  [[nodiscard]] int limit(bool decoding) const;
  // A step of so many sequences' next tokens and so many tokens of prompts took so long.
  void record(int decoding, int prompt_tokens, double seconds);

 private:
  double delay_;
  double decode_seconds_ = 0;  // of a step without prompts
  double token_seconds_ = 0;   // that a token of a prompt adds; 0: not known yet
  int largest_ = 0;            // tokens of prompts in a step so far; steps grow no faster than twofold
};

}  // namespace metal_marlin
