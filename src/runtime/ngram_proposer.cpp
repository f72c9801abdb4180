#include "runtime/ngram_proposer.h"

#include <algorithm>
#include <array>

namespace metal_marlin {
namespace {

constexpr std::size_t kMostPlaces = 16;    // that are compared
constexpr std::size_t kMostLength = 64;    // beyond which no match is longer than another
constexpr std::array kKinds{3, 5, 9, 17};  // lengths of matches that each kind ends before, but for a last kind
constexpr std::array kNgramExpected{0.3, 0.4, 0.6, 0.75, 0.85};

struct NgramSequence : Proposer::Sequence {
  NgramIndex index;
};

std::uint64_t pair_key(TokenId first, TokenId second) {
  return std::uint64_t{static_cast<std::uint32_t>(first)} << 32 | static_cast<std::uint32_t>(second);
}

}  // namespace

void NgramIndex::extend(std::span<const TokenId> tokens) {
  while (tokens_.size() < tokens.size()) {
    // The two last tokens are entered when something stands behind them: then a look-up never finds itself.
    const std::size_t size = tokens_.size();
    before_.push_back(0);
    if (size >= 2) before_[size] = std::exchange(last_[pair_key(tokens_[size - 2], tokens_[size - 1])], size);
    tokens_.push_back(tokens[size]);
  }
}

std::size_t NgramIndex::length_at(std::size_t at) const {
  const std::size_t most = std::min(at, kMostLength);
  std::size_t length = 0;
  while (length < most && tokens_[at - 1 - length] == tokens_[tokens_.size() - 1 - length]) ++length;
  return length;
}

NgramIndex::Match NgramIndex::find() {
  const std::size_t size = tokens_.size();
  Match best;
  if (size < 2) return best;
  const auto consider = [&](std::size_t at) {
    const std::size_t length = length_at(at);
    if (length > best.length) best = {at, length};
  };
  // A text that is copied goes on where it was, which may be none of the last places.
  if (found_.length > 0 && found_.at + (size - found_size_) < size) consider(found_.at + (size - found_size_));
  const auto last = last_.find(pair_key(tokens_[size - 2], tokens_[size - 1]));
  std::size_t at = last == last_.end() ? 0 : last->second;
  for (std::size_t i = 0; i < kMostPlaces && at != 0; ++i, at = before_[at]) consider(at);
  if (best.length < 2) best = {};
  found_ = best;
  found_size_ = size;
  return best;
}

std::unique_ptr<Proposer::Sequence> NgramProposer::begin() {
  return std::make_unique<NgramSequence>();
}

void NgramProposer::propose(std::span<Request> requests) {
  for (Request& request : requests) {
    NgramIndex& index = static_cast<NgramSequence*>(request.sequence)->index;
    index.extend(request.tokens);
    const NgramIndex::Match match = index.find();
    if (match.length == 0) continue;
    // What is beyond the end repeats the guess itself.
    for (std::size_t i = match.at; i < match.at + static_cast<std::size_t>(request.most); ++i)
      request.guess.push_back(i < request.tokens.size() ? request.tokens[i] : request.guess[i - request.tokens.size()]);
    const auto kind = std::upper_bound(kKinds.begin(), kKinds.end(), static_cast<int>(match.length));
    request.kind = static_cast<int>(kind - kKinds.begin());
  }
}

std::span<const double> NgramProposer::expected() const {
  return kNgramExpected;
}

}  // namespace metal_marlin
