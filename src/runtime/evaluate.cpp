#include "metal_marlin/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/finite.h"
#include "base/hash.h"
#include "base/seconds_since.h"
#include "base/shared_pool.h"
#include "base/thread_pool.h"
#include "io/file_write.h"
#include "io/json.h"
#include "io/row_file.h"
#include "metal_marlin/error.h"
#include "runtime/divergence.h"

namespace metal_marlin {
namespace {

constexpr int kLogitsRows = 64;

// Tokens [begin, end) of the text; targets from `score_from` on count.
struct Window {
  std::int64_t begin;
  std::int64_t end;
  std::int64_t score_from;
};

std::vector<Window> disjoint_windows(std::int64_t tokens, std::int64_t context) {
  std::vector<Window> windows;
  for (std::int64_t begin = 0; begin + context <= tokens; begin += context) {
    windows.push_back({begin, begin + context, begin + context / 2 + 1});
  }
  return windows;
}

std::vector<Window> strided_windows(std::int64_t tokens, std::int64_t context, std::int64_t stride) {
  std::vector<Window> windows;
  std::int64_t scored = 0;
  for (std::int64_t begin = 0; begin < tokens; begin += stride) {
    const std::int64_t end = std::min(begin + context, tokens);
    windows.push_back({begin, end, std::max(scored, begin + 1)});
    scored = end;
    if (end == tokens) break;
  }
  return windows;
}

std::int64_t scored_tokens(const std::vector<Window>& windows) {
  std::int64_t out = 0;
  for (const Window& window : windows) out += window.end - window.score_from;
  return out;
}

// What the kept logits are of.
std::filesystem::path side_file_of(const EvaluateOptions& options) {
  return options.reference_cache.string() + ".json";
}

struct Sum {
  double total = 0;
  double squares = 0;
  std::int64_t count = 0;
  void add(double value) {
    total += value;
    squares += value * value;
    ++count;
  }
  [[nodiscard]] double mean() const { return count == 0 ? 0 : total / static_cast<double>(count); }
  [[nodiscard]] double error() const {
    if (count < 2) return 0;
    const double variance = squares / static_cast<double>(count) - mean() * mean();
    return variance > 0 ? std::sqrt(variance / static_cast<double>(count - 1)) : 0;
  }
};

double perplexity_of(const Sum& nll, const char* what) {
  const double perplexity = std::exp(nll.mean());
  if (!std::isfinite(perplexity))
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: overflows, the mean error is {:.1f} nats a token", what, nll.mean()));
  return perplexity;
}

struct RowScore {
  double nll = 0;
  double reference_nll = 0;
  double kl = 0;
  bool agrees = false;
};

RowScore score_row(std::span<const float> logits, std::span<const float> reference, TokenId target) {
  RowScore score;
  const double normalizer = log_sum_exp(logits);
  score.nll = normalizer - static_cast<double>(logits[static_cast<std::size_t>(target)]);
  if (reference.empty()) return score;
  const double reference_normalizer = log_sum_exp(reference);
  score.reference_nll = reference_normalizer - static_cast<double>(reference[static_cast<std::size_t>(target)]);
  score.kl = kl_divergence(reference, reference_normalizer, logits, normalizer);
  const auto best = [](std::span<const float> row) { return std::max_element(row.begin(), row.end()) - row.begin(); };
  score.agrees = best(logits) == best(reference);
  return score;
}

class Evaluator {
 public:
  Evaluator(const std::shared_ptr<const Model>& model, std::span<const TokenId> tokens, const EvaluateOptions& options)
      : tokens_(tokens),
        options_(options),
        pool_(shared_pool(model->info().threads)),
        session_(model, session_options()) {
    if (reference_is_cached(options)) {
      open_cache(model->info().vocab);
    } else if (options.reference) {
      if (options.reference->info().vocab != model->info().vocab) {
        throw Error(ErrorCode::kInvalidArgument, fmt::format("the reference has a vocabulary of {}, the model of {}",
                                                             options.reference->info().vocab, model->info().vocab));
      }
      reference_.emplace(options.reference, session_options());
    }
  }

  Evaluation run() {
    const auto count = static_cast<std::int64_t>(tokens_.size());
    const auto windows = options_.stride > 0 ? strided_windows(count, options_.context, options_.stride)
                                             : disjoint_windows(count, options_.context);
    if (scored_tokens(windows) == 0) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("the text has {} tokens, too few for a context of {}{}: nothing can be scored", count,
                              options_.context, options_.stride > 0 ? "" : " of which the second half counts"));
    }
    if (reference_ && !options_.reference_cache.empty()) make_cache(windows);
    double seconds = 0;
    std::int64_t processed = 0;
    for (std::size_t i = 0; i < windows.size(); ++i) {
      if (options_.progress &&
          !options_.progress(static_cast<std::int64_t>(i), static_cast<std::int64_t>(windows.size()))) {
        throw Error(ErrorCode::kCancelled, "the evaluation was cancelled");
      }
      if (compares()) reference_logits(windows[i]);
      const double before = scoring_seconds_;
      const auto start = std::chrono::steady_clock::now();
      score_window(windows[i]);
      seconds += seconds_since(start) - (scoring_seconds_ - before);
      processed += windows[i].end - windows[i].begin;
    }
    if (options_.progress)
      options_.progress(static_cast<std::int64_t>(windows.size()), static_cast<std::int64_t>(windows.size()));
    if (reference_ && cache_) keep_cache();
    Evaluation out;
    out.nll = nll_.mean();
    out.perplexity = perplexity_of(nll_, "perplexity");
    out.perplexity_error = nll_.error() * out.perplexity;
    out.scored_tokens = nll_.count;
    out.windows = static_cast<std::int64_t>(windows.size());
    out.tokens_per_second = static_cast<double>(processed) / seconds;
    if (compares()) {
      out.divergence =
          Divergence{kl_.mean(), kl_.error(), static_cast<double>(agreed_) / static_cast<double>(kl_.count),
                     perplexity_of(reference_nll_, "reference perplexity")};
    }
    return out;
  }

 private:
  [[nodiscard]] SessionOptions session_options() const {
    if (options_.context < 2)
      throw Error(ErrorCode::kInvalidArgument, fmt::format("context is {}, expected at least 2", options_.context));
    if (options_.stride < 0 || options_.stride > options_.context)
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("stride is {}, expected 0 to the context of {}: else windows leave tokens out",
                              options_.stride, options_.context));
    SessionOptions options;
    options.cache_tokens = options_.context;
    options.batch_tokens = std::min(options_.context, 512);
    options.batch_logits = kLogitsRows;
    return options;
  }

  // Runs a window; the logits at i predict token i + 1.
  template <typename OnRows>
  void forward(Session& session, const Window& window, const OnRows& on_rows) {
    const SequenceId sequence = session.open(&session == &session_ ? options_.adapter : std::string());
    const auto begin = tokens_.begin() + window.begin;
    std::vector<TokenId> input(begin, begin + (window.end - window.begin - 1));
    if (options_.stride == 0 && options_.first_token) input.front() = *options_.first_token;
    if (!input.empty()) {
      const auto from = static_cast<std::size_t>(window.score_from - window.begin - 1);
      session.step(std::array{SequenceInput{sequence, input, from}}, on_rows);
    }
    session.close(sequence);
  }

  [[nodiscard]] bool compares() const { return reference_ || cache_; }
  [[nodiscard]] std::filesystem::path side_file() const { return side_file_of(options_); }

  // What the reference's logits are of.
  [[nodiscard]] Json cache_key(std::int64_t vocab) const {
    return {{"tokens", tokens_.size()},
            {"hash", hash_of(std::as_bytes(tokens_))},
            {"vocab", vocab},
            {"context", options_.context},
            {"stride", options_.stride},
            {"first_token", options_.first_token.value_or(-1)}};
  }
  void open_cache(std::int64_t vocab) {
    const Json found = read_json_file(side_file());
    Json expected = cache_key(vocab);
    expected["rows"] = found.value("rows", std::int64_t{-1});
    if (found != expected) {
      throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: holds logits for {}, expected {}", side_file().string(),
                                                           found.dump(), expected.dump()));
    }
    cache_.emplace(options_.reference_cache, found["rows"].get<std::int64_t>(), vocab, RowFile::Open::kExisting);
  }
  void make_cache(const std::vector<Window>& windows) {
    cached_rows_ = scored_tokens(windows);
    cache_file_.emplace(options_.reference_cache);
    cache_.emplace(cache_file_->partial(), cached_rows_, reference_vocab(), RowFile::Open::kNew);
  }
  void keep_cache() {
    cache_->sync();
    cache_file_->commit();
    Json key = cache_key(reference_vocab());
    key["rows"] = cached_rows_;
    write_file_atomically(side_file(), key.dump());
  }
  [[nodiscard]] std::int64_t reference_vocab() const { return options_.reference->info().vocab; }

  void reference_logits(const Window& window) {
    if (!reference_) {
      const std::int64_t rows = window.end - window.score_from;
      reference_rows_.resize(static_cast<std::size_t>(rows * cache_->width()));
      cache_->read(cache_at_, rows, reference_rows_.data());
      cache_at_ += rows;
      if (!all_finite(reference_rows_))
        throw Error(ErrorCode::kCorruptFile,
                    fmt::format("{}: the logits are not finite", options_.reference_cache.string()));
      return;
    }
    reference_rows_.clear();
    forward(*reference_, window, [&](std::span<const LogitsRow> rows) {
      for (const LogitsRow& row : rows)
        reference_rows_.insert(reference_rows_.end(), row.values.begin(), row.values.end());
    });
    if (!cache_) return;
    const std::int64_t rows = window.end - window.score_from;
    cache_->write(cache_at_, rows, reference_rows_.data());
    cache_at_ += rows;
  }

  void score_window(const Window& window) {
    std::size_t done = 0;
    forward(session_, window, [&](std::span<const LogitsRow> rows) {
      const auto start = std::chrono::steady_clock::now();
      std::vector<RowScore> scores(rows.size());
      pool_->parallel_for(static_cast<std::int64_t>(rows.size()), 1, [&](std::int64_t begin, std::int64_t) {
        const LogitsRow& row = rows[static_cast<std::size_t>(begin)];
        std::span<const float> reference;
        if (compares()) {
          reference = std::span<const float>(reference_rows_)
                          .subspan((done + static_cast<std::size_t>(begin)) * row.values.size(), row.values.size());
        }
        const TokenId target = tokens_[static_cast<std::size_t>(window.begin) + row.token + 1];
        scores[static_cast<std::size_t>(begin)] = score_row(row.values, reference, target);
      });
      done += rows.size();
      for (const RowScore& score : scores) {
        nll_.add(score.nll);
        if (!compares()) continue;
        kl_.add(score.kl);
        reference_nll_.add(score.reference_nll);
        agreed_ += score.agrees ? 1 : 0;
      }
      scoring_seconds_ += seconds_since(start);
    });
  }

  std::span<const TokenId> tokens_;
  const EvaluateOptions& options_;
  std::shared_ptr<ThreadPool> pool_;
  Session session_;
  std::optional<Session> reference_;
  std::optional<OutputFile> cache_file_;  // of the cache that is being written
  std::optional<RowFile> cache_;          // the reference's logits, in order
  std::int64_t cache_at_ = 0;
  std::int64_t cached_rows_ = 0;
  std::vector<float> reference_rows_;
  Sum nll_;
  Sum reference_nll_;
  Sum kl_;
  std::int64_t agreed_ = 0;
  double scoring_seconds_ = 0;
};

}  // namespace

bool reference_is_cached(const EvaluateOptions& options) {
  return !options.reference_cache.empty() && std::filesystem::exists(side_file_of(options));
}

Evaluation evaluate(const std::shared_ptr<const Model>& model, std::span<const TokenId> tokens,
                    const EvaluateOptions& options) {
  return Evaluator(model, tokens, options).run();
}

}  // namespace metal_marlin
