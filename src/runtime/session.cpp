#include <fmt/format.h>

#include <algorithm>
#include <atomic>

#include "backends/cpu/cpu_backend.h"
#include "base/finite.h"
#include "base/memory.h"
#include "metal_marlin/error.h"
#include "metal_marlin/model.h"
#include "runtime/model_impl.h"

namespace metal_marlin {
namespace {

struct Sequence {
  bool open = false;
  std::int64_t length = 0;
  std::vector<std::int32_t> pages;
};

std::int64_t pages_for(std::int64_t tokens) {
  return (tokens + kCachePageTokens - 1) / kCachePageTokens;
}

}  // namespace

struct Session::Impl {
  std::shared_ptr<const Model> model;
  SessionOptions options;
  std::int64_t vocab = 0;
  std::unique_ptr<Runner> runner;
  std::vector<Sequence> sequences;
  std::vector<std::int32_t> free_pages;
  std::atomic<bool> cancelled{false};
  // Of the pass being built; capacity is reserved once.
  std::vector<TokenId> tokens;
  std::vector<SequenceSlice> slices;
  std::vector<int> selected;
  std::vector<LogitsRow> rows;

  Sequence& at(SequenceId id) {
    if (id < 0 || static_cast<std::size_t>(id) >= sequences.size() || !sequences[static_cast<std::size_t>(id)].open) {
      throw Error(ErrorCode::kInvalidArgument, fmt::format("sequence {} is not open", id));
    }
    return sequences[static_cast<std::size_t>(id)];
  }

  void validate(std::span<const SequenceInput> inputs) {
    std::int64_t needed = 0;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const SequenceInput& input = inputs[i];
      const Sequence& sequence = at(input.sequence);
      for (std::size_t j = 0; j < i; ++j) {
        if (inputs[j].sequence == input.sequence) {
          throw Error(ErrorCode::kInvalidArgument,
                      fmt::format("sequence {} appears twice in one step", input.sequence));
        }
      }
      for (const TokenId id : input.tokens) {
        if (id < 0 || id >= vocab) {
          throw Error(ErrorCode::kInvalidArgument,
                      fmt::format("token id {} is outside the vocabulary of {}", id, vocab));
        }
      }
      needed += pages_for(sequence.length + static_cast<std::int64_t>(input.tokens.size())) -
                static_cast<std::int64_t>(sequence.pages.size());
    }
    if (needed > static_cast<std::int64_t>(free_pages.size())) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("the cache is full: {} more pages of {} tokens are needed, {} are free", needed,
                              kCachePageTokens, free_pages.size()));
    }
  }

  // Adds tokens [begin, ...) of an input to the pass, as many as fit.
  std::size_t add(std::span<const SequenceInput> inputs, std::size_t index, std::size_t begin) {
    const SequenceInput& input = inputs[index];
    const std::size_t total = input.tokens.size();
    const std::size_t from = std::min(input.logits_from, total - 1);
    std::size_t end = std::min(total, begin + static_cast<std::size_t>(options.batch_tokens) - tokens.size());
    const std::size_t room = static_cast<std::size_t>(options.batch_logits) - selected.size();
    end = std::min(end, std::max(begin, from) + room);
    if (end <= begin) return 0;
    Sequence& sequence = at(input.sequence);
    const auto first = static_cast<int>(tokens.size());
    const auto count = static_cast<std::int64_t>(end - begin);
    while (static_cast<std::int64_t>(sequence.pages.size()) < pages_for(sequence.length + count)) {
      sequence.pages.push_back(free_pages.back());
      free_pages.pop_back();
    }
    const std::int64_t length = sequence.length + static_cast<std::int64_t>(total - begin);
    slices.push_back({first, static_cast<int>(count), sequence.length, sequence.pages, length});
    for (std::size_t i = begin; i < end; ++i) {
      if (i >= from) {
        selected.push_back(static_cast<int>(tokens.size()));
        rows.push_back({static_cast<int>(index), i, {}});
      }
      tokens.push_back(input.tokens[i]);
    }
    sequence.length += count;
    return static_cast<std::size_t>(count);
  }

  void run_pass(const LogitsSink& sink) {
    const Batch batch{tokens, slices, selected};
    const float* const logits = runner->step(batch);
    if (!all_finite({logits, rows.size() * static_cast<std::size_t>(vocab)})) fail_not_finite(batch);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      rows[i].values = {logits + static_cast<std::int64_t>(i) * vocab, static_cast<std::size_t>(vocab)};
    }
    if (!rows.empty() && sink) sink(rows);
    clear_pass();
  }

  [[noreturn]] void fail_not_finite(const Batch& batch) {
    const std::string place = runner->not_finite_at(batch);
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: the logits are not finite (NaN or infinite){}{}", model->impl_->path,
                            place.empty() ? "" : "; the first values that are not come from: ", place));
  }

  void clear_pass() {
    tokens.clear();
    slices.clear();
    selected.clear();
    rows.clear();
  }
};

Session::Session(std::shared_ptr<const Model> model, const SessionOptions& options) : impl_(std::make_unique<Impl>()) {
  if (options.max_sequences < 1 || options.batch_tokens < 1 || options.batch_logits < 1 || options.cache_tokens < 0) {
    throw Error(ErrorCode::kInvalidArgument,
                "session options: sequences, batch_tokens and batch_logits must be at least 1");
  }
  impl_->options = options;
  impl_->vocab = model->info().vocab;
  std::int64_t cache_tokens = options.cache_tokens;
  if (cache_tokens == 0) cache_tokens = model->info().max_positions * options.max_sequences;
  RunnerLimits limits;
  limits.tokens = options.batch_tokens;
  limits.selected = options.batch_logits;
  limits.sequences = options.max_sequences;
  // Every sequence may leave its last page part empty.
  const std::int64_t pages = pages_for(cache_tokens) + options.max_sequences - 1;
  if (pages > INT32_MAX)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("cache_tokens is {}, too large", cache_tokens));
  limits.pages = static_cast<int>(pages);
  if (model->info().backend != "msl-cuda") {
    require_memory(cpu::estimate_cache_bytes(model->impl_->plan, limits.pages, model->impl_->cache),
                   fmt::format("a cache of {} tokens", cache_tokens));
  }
  impl_->runner = model->impl_->prepared->make_runner(limits, model->impl_->cache);
  impl_->sequences.resize(static_cast<std::size_t>(options.max_sequences));
  for (Sequence& sequence : impl_->sequences) sequence.pages.reserve(static_cast<std::size_t>(pages));
  for (std::int32_t page = limits.pages - 1; page >= 0; --page) impl_->free_pages.push_back(page);
  impl_->tokens.reserve(static_cast<std::size_t>(options.batch_tokens));
  impl_->slices.reserve(static_cast<std::size_t>(options.max_sequences));
  impl_->selected.reserve(static_cast<std::size_t>(options.batch_logits));
  impl_->rows.reserve(static_cast<std::size_t>(options.batch_logits));
  impl_->model = std::move(model);
}

Session::~Session() = default;

SequenceId Session::open() {
  for (std::size_t i = 0; i < impl_->sequences.size(); ++i) {
    Sequence& sequence = impl_->sequences[i];
    if (sequence.open) continue;
    sequence.open = true;
    sequence.length = 0;
    return static_cast<SequenceId>(i);
  }
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{} sequences are open, the session holds no more", impl_->sequences.size()));
}

void Session::close(SequenceId id) {
  truncate(id, 0);
  impl_->at(id).open = false;
}

std::int64_t Session::length(SequenceId id) const {
  return impl_->at(id).length;
}

void Session::truncate(SequenceId id, std::int64_t length) {
  Sequence& sequence = impl_->at(id);
  if (length < 0 || length > sequence.length) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("length is {}, expected 0 to {}", length, sequence.length));
  }
  sequence.length = length;
  while (static_cast<std::int64_t>(sequence.pages.size()) > pages_for(length)) {
    impl_->free_pages.push_back(sequence.pages.back());
    sequence.pages.pop_back();
  }
}

void Session::step(std::span<const SequenceInput> inputs, const LogitsSink& sink) {
  impl_->validate(inputs);
  impl_->clear_pass();  // what a sink that threw may have left
  impl_->cancelled.store(false);
  for (std::size_t index = 0; index < inputs.size(); ++index) {
    for (std::size_t done = 0; done < inputs[index].tokens.size();) {
      const std::size_t added = impl_->add(inputs, index, done);
      done += added;
      if (done < inputs[index].tokens.size() || added == 0) {  // the pass is full
        impl_->run_pass(sink);
        if (impl_->cancelled.load()) throw Error(ErrorCode::kCancelled, "the step was cancelled");
      }
    }
  }
  if (!impl_->tokens.empty()) impl_->run_pass(sink);
}

std::vector<std::vector<std::int64_t>> Session::expert_counts() const {
  return impl_->runner->expert_counts();
}

void Session::cancel() {
  impl_->cancelled.store(true);
}

}  // namespace metal_marlin
