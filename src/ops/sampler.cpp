#include "metal_marlin/sampler.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

void require(bool ok, const char* option, double found, const char* expected) {
  if (!ok) throw Error(ErrorCode::kInvalidArgument, fmt::format("{} is {}, expected {}", option, found, expected));
}

}  // namespace

void validate(const SamplerOptions& o) {
  require(o.temperature >= 0 && std::isfinite(o.temperature), "temperature", o.temperature, "0 or more");
  require(o.top_k >= 0, "top-k", o.top_k, "0 or more");
  require(o.typical_p > 0 && o.typical_p <= 1, "typical-p", o.typical_p, "a number in (0, 1]");
  require(o.top_p > 0 && o.top_p <= 1, "top-p", o.top_p, "a number in (0, 1]");
  require(o.min_p >= 0 && o.min_p <= 1, "min-p", o.min_p, "a number in [0, 1]");
  require(o.repeat_penalty > 0 && std::isfinite(o.repeat_penalty), "repeat-penalty", o.repeat_penalty,
          "a positive number");
  require(std::isfinite(o.frequency_penalty), "frequency-penalty", o.frequency_penalty, "a finite number");
  require(std::isfinite(o.presence_penalty), "presence-penalty", o.presence_penalty, "a finite number");
  std::vector<TokenId> biased;
  for (const auto& [id, bias] : o.logit_bias) {
    require(id >= 0, "logit-bias: a token", id, "0 or more");
    require(std::isfinite(bias), "logit-bias", bias, "a finite number");
    biased.push_back(id);
  }
  std::sort(biased.begin(), biased.end());
  const auto twice = std::adjacent_find(biased.begin(), biased.end());
  require(twice == biased.end(), "logit-bias: a token", twice == biased.end() ? 0 : *twice, "each token once");
}

Sampler::Sampler(const SamplerOptions& options) : options_(options), random_(options.seed) {
  validate(options);
}

void Sampler::see(TokenId id, int times) {
  const auto index = static_cast<std::size_t>(id);
  if (id < 0) return;
  if (options_.repeat_penalty == 1 && options_.frequency_penalty == 0 && options_.presence_penalty == 0) return;
  if (index >= places_.size()) places_.resize(index + 1);
  if (places_[index] == 0) {
    seen_.push_back({id, 0});
    places_[index] = seen_.size();
  }
  seen_[places_[index] - 1].count += times;
}

// The candidates that may be picked at all, with their logits.
void Sampler::start(std::span<const float> logits) {
  candidates_.clear();
  if (allowed_.empty()) {
    candidates_.resize(logits.size());
    for (std::size_t i = 0; i < logits.size(); ++i) candidates_[i] = {static_cast<TokenId>(i), logits[i]};
    return;
  }
  for (std::size_t word = 0; word < allowed_.size(); ++word) {
    for (std::uint64_t bits = allowed_[word]; bits != 0; bits &= bits - 1) {
      const std::size_t id = word * 64 + static_cast<std::size_t>(std::countr_zero(bits));
      if (id < logits.size()) candidates_.push_back({static_cast<TokenId>(id), logits[id]});
    }
  }
}

void Sampler::fill(std::span<const float> logits) {
  start(logits);
  // Candidates are ascending; all of them are there where nothing is masked.
  const auto find = [&](TokenId id) -> Candidate* {
    if (allowed_.empty()) {
      const bool is_there = id >= 0 && static_cast<std::size_t>(id) < candidates_.size();
      return is_there ? &candidates_[static_cast<std::size_t>(id)] : nullptr;
    }
    const auto found = std::lower_bound(candidates_.begin(), candidates_.end(), id,
                                        [](const Candidate& c, TokenId other) { return c.id < other; });
    return found != candidates_.end() && found->id == id ? &*found : nullptr;
  };
  for (const auto& [id, bias] : options_.logit_bias) {
    if (Candidate* const candidate = find(id)) candidate->weight += bias;
  }
  for (const SeenToken& token : seen_) {
    Candidate* const candidate = find(token.id);
    if (candidate == nullptr) continue;
    float& logit = candidate->weight;
    logit = logit > 0 ? logit / options_.repeat_penalty : logit * options_.repeat_penalty;
    if (token.count == 0) continue;
    logit -= static_cast<float>(token.count) * options_.frequency_penalty + options_.presence_penalty;
  }
  for (const TokenId id : forbidden_) {
    if (Candidate* const candidate = find(id)) candidate->weight = -INFINITY;
  }
}

void Sampler::sort_until(std::size_t begin, std::size_t end) {
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  };
  std::partial_sort(candidates_.begin() + static_cast<std::ptrdiff_t>(begin),
                    candidates_.begin() + static_cast<std::ptrdiff_t>(end), candidates_.end(), likelier);
}

void Sampler::keep_top_k() {
  const std::size_t k = std::min(static_cast<std::size_t>(options_.top_k), candidates_.size());
  sort_until(0, k);
  candidates_.resize(k);
}

// By how far a candidate's surprise is from the mean: sorted by that, the weights kept beside.
void Sampler::keep_typical() {
  double total = 0;
  double mean = 0;
  for (const Candidate& c : candidates_) {
    const auto weight = static_cast<double>(c.weight);
    total += weight;
    if (weight > 0) mean += weight * std::log(weight);
  }
  const double entropy = std::log(total) - mean / total;
  const auto distance = [&](const Candidate& c) {
    return c.weight > 0 ? std::fabs(-std::log(static_cast<double>(c.weight) / total) - entropy) : INFINITY;
  };
  std::sort(candidates_.begin(), candidates_.end(), [&](const Candidate& a, const Candidate& b) {
    const double of_a = distance(a);
    const double of_b = distance(b);
    return of_a != of_b ? of_a < of_b : a.id < b.id;
  });
  double sum = 0;
  std::size_t count = 0;
  while (count < candidates_.size() && sum < static_cast<double>(options_.typical_p) * total)
    sum += static_cast<double>(candidates_[count++].weight);
  candidates_.resize(std::max<std::size_t>(count, 1));
}

// Sorts only as far as the sum needs: the likeliest few of a large vocabulary.
void Sampler::keep_sum(float p) {
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  const double enough = static_cast<double>(p) * total;
  double sum = 0;
  std::size_t count = 0;
  std::size_t sorted = 0;
  while (count < candidates_.size() && sum < enough) {
    if (count == sorted) {
      const std::size_t end = std::min(candidates_.size(), std::max<std::size_t>(64, 4 * sorted));
      sort_until(sorted, end);
      sorted = end;
    }
    sum += candidates_[count++].weight;
  }
  candidates_.resize(std::max<std::size_t>(count, 1));
}

void Sampler::keep_min_p() {
  float most = 0;
  for (const Candidate& candidate : candidates_) most = std::max(most, candidate.weight);
  std::erase_if(candidates_, [&](const Candidate& candidate) { return candidate.weight < options_.min_p * most; });
}

double Sampler::next_uniform() {
  return static_cast<double>(random_() >> 11) * 0x1p-53;
}

TokenId Sampler::draw() {
  const auto by_id = [](const Candidate& a, const Candidate& b) { return a.id < b.id; };
  if (!std::is_sorted(candidates_.begin(), candidates_.end(), by_id))
    std::sort(candidates_.begin(), candidates_.end(), by_id);
  double total = 0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  const double target = next_uniform() * total;
  double sum = 0;
  for (const Candidate& candidate : candidates_) {
    sum += candidate.weight;
    if (sum > target) return candidate.id;
  }
  return candidates_.back().id;
}

// Leaves the candidates and their weights; gives the likeliest of all.
TokenId Sampler::restrict_candidates(std::span<const float> logits) {
  fill(logits);
  const auto best = std::max_element(candidates_.begin(), candidates_.end(),
                                     [](const Candidate& a, const Candidate& b) { return a.weight < b.weight; });
  const Candidate likeliest = *best;
  if (options_.temperature == 0) {
    candidates_ = {{likeliest.id, 1.0F}};
    return likeliest.id;
  }
  for (Candidate& candidate : candidates_)
    candidate.weight = std::exp((candidate.weight - likeliest.weight) / options_.temperature);
  if (options_.top_k > 0) keep_top_k();
  if (options_.typical_p < 1) keep_typical();
  if (options_.top_p < 1) keep_sum(options_.top_p);
  if (options_.min_p > 0) keep_min_p();
  return likeliest.id;
}

TokenId Sampler::sample(std::span<const float> logits) {
  TokenId id = restrict_candidates(logits);
  if (options_.temperature > 0) id = draw();
  accept(id);
  return id;
}

std::vector<float> Sampler::distribution(std::span<const float> logits) {
  restrict_candidates(logits);
  double total = 0;
  for (const Candidate& candidate : candidates_) total += static_cast<double>(candidate.weight);
  std::vector<float> out(logits.size());
  for (const Candidate& candidate : candidates_)
    out[static_cast<std::size_t>(candidate.id)] = static_cast<float>(static_cast<double>(candidate.weight) / total);
  return out;
}

}  // namespace metal_marlin
