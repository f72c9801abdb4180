#include "runtime/prompt_chunks.h"

#include <algorithm>

namespace metal_marlin {
namespace {

constexpr int kFirstChunk = 16;
// Where nobody waits for a token: a request that comes meanwhile waits so long.
constexpr double kIdleDelay = 0.5;
constexpr double kNewest = 0.5;  // weight of the newest measurement

}  // namespace

int PromptChunks::limit(bool decoding) const {
  if (token_seconds_ == 0) return kFirstChunk;
  const double fit = (decoding ? delay_ : std::max(delay_, kIdleDelay)) / token_seconds_;
  return static_cast<int>(std::clamp(fit, 1.0, 2.0 * std::max(largest_, kFirstChunk)));
}

void PromptChunks::record(int decoding, int prompt_tokens, double seconds) {
  if (prompt_tokens == 0) {
    decode_seconds_ = decode_seconds_ == 0 ? seconds : (1 - kNewest) * decode_seconds_ + kNewest * seconds;
    return;
  }
  largest_ = std::max(largest_, prompt_tokens);
  // What the step would have taken anyway is known where there were such steps.
  const double added = std::max(seconds - (decoding > 0 ? decode_seconds_ : 0), 0.1 * seconds);
  const double each = added / prompt_tokens;
  // Slower counts at once: later tokens of a long prompt see more keys.
  token_seconds_ = each > token_seconds_ ? each : (1 - kNewest) * token_seconds_ + kNewest * each;
}

}  // namespace metal_marlin
