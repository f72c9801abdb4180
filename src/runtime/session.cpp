#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <new>

#include "base/finite.h"
#include "base/memory.h"
#include "metal_marlin/error.h"
#include "metal_marlin/model.h"
#include "runtime/model_impl.h"
#include "runtime/page_pool.h"

namespace metal_marlin {
namespace {

// A cache begins with memory for so many tokens, and doubles.
constexpr std::int64_t kFirstTokens = 1024;

// A place for one sequence at a time.
struct Sequence {
  std::atomic<SequenceId> id{-1};         // of the one that is, or was last, here
  std::atomic<SequenceId> cancelled{-1};  // the last that was
  bool open = false;
  int adapter = kNoAdapter;
  std::int64_t length = 0;
  std::vector<PageId> pages;
  // With a prefix cache: what it holds, and its full pages' contents.
  std::vector<TokenId> tokens;
  std::vector<ContentId> contents;

  [[nodiscard]] bool is_cancelled() const { return cancelled.load() == id.load(); }
  // What its first page comes after: pages of one adapter are never those of another.
  [[nodiscard]] ContentId beginning() const { return static_cast<ContentId>(adapter - kNoAdapter); }
};

// Tokens of a sequence in the pass that is being built.
struct Part {
  int input;
  Sequence* sequence;
  std::size_t begin;  // of the input's tokens
  std::span<const TokenId> tokens;
  std::int64_t guessed_from;  // of the sequence's length: what is there may be cut again
};

// Where a step's results go: logits to a sink, or, of inputs that have a sampler, the token that it draws from them.
struct Results {
  const LogitsSink& sink;
  std::span<Sampler* const> samplers;  // none, or one an input
  std::span<TokenId> next;
  NotFinite* failed = nullptr;

  [[nodiscard]] Sampler* sampler(std::size_t index) const { return samplers.empty() ? nullptr : samplers[index]; }
  // The first token of an input whose logits are wanted.
  [[nodiscard]] std::size_t wanted_from(const SequenceInput& input, std::size_t index) const {
    const std::size_t total = input.tokens.size();
    if (sampler(index) != nullptr) return total - 1;
    return !sink || input.logits_from == kNoLogits ? total : std::min(input.logits_from, total - 1);
  }
  [[nodiscard]] bool has_failed(int input) const {
    return failed != nullptr && std::find(failed->inputs.begin(), failed->inputs.end(), input) != failed->inputs.end();
  }
};

void check(const SessionOptions& options) {
  if (options.max_sequences < 1 || options.batch_tokens < 1 || options.batch_logits < 1 || options.cache_tokens < 0) {
    throw Error(ErrorCode::kInvalidArgument,
                "session options: sequences, batch_tokens and batch_logits must be at least 1");
  }
}

}  // namespace

RunnerLimits runner_limits(const SessionOptions& options, std::int64_t pages) {
  RunnerLimits out;
  out.tokens = options.batch_tokens;
  out.selected = options.batch_logits;
  out.sequences = options.max_sequences;
  out.pages = static_cast<int>(pages);
  out.one_order = options.one_order;
  out.hidden = options.hidden_states;
  return out;
}

struct Session::Impl {
  std::shared_ptr<const Model> model;
  SessionOptions options;
  std::int64_t vocab = 0;
  std::int64_t row_width = 0;  // of logits, or of hidden states
  bool takes_hidden = false;   // the model is a layer that predicts
  std::int64_t page_limit = 0;
  PagePool pool;
  std::unique_ptr<Runner> runner;
  std::vector<Sequence> sequences;
  std::atomic<bool> cancelled{false};
  CacheStats stats;  // what the pool does not count
  // Of the pass being built; capacity is reserved once.
  std::vector<TokenId> tokens;
  std::vector<float> hidden;  // of the tokens, where the model is a layer that predicts
  std::vector<SequenceSlice> slices;
  std::vector<Part> parts;
  std::vector<int> selected;
  std::vector<LogitsRow> rows;
  std::vector<Sampler*> samplers;  // of the rows; null: their logits are wanted
  std::vector<TokenId> drawn;
  std::vector<LogitsRow> shown;
  std::vector<TokenId> next;  // of the step's inputs

  Impl(std::shared_ptr<const Model> of, const SessionOptions& with)
      : model(std::move(of)),
        options(with),
        vocab(model->info().vocab),
        row_width(with.hidden_states ? model->info().hidden : vocab),
        takes_hidden(model->impl_->plan.prediction),
        pool(model->info().adapters.size() + 1),
        sequences(static_cast<std::size_t>(with.max_sequences)) {
    if (options.on_hidden && model->impl_->plan.output(kHiddenOutput) < 0) {
      throw Error(ErrorCode::kInvalidArgument,
                  "session options: on_hidden, but the model has no layers that predict, or none were loaded");
    }
    const std::int64_t asked =
        options.cache_tokens > 0 ? options.cache_tokens : model->info().max_positions * options.max_sequences;
    // Every sequence may leave its last page part empty.
    page_limit = pages_for(asked) + options.max_sequences - 1;
    const std::int64_t most = model->impl_->most_cache_pages;
    if (page_limit > most && options.cache_tokens > 0) {
      throw Error(ErrorCode::kInvalidArgument, fmt::format("cache_tokens is {}, a cache of {} takes at most {}", asked,
                                                           model->info().device, most * kCachePageTokens));
    }
    page_limit = std::min(page_limit, most);
    const std::int64_t first = std::min(page_limit, pages_for(kFirstTokens));
    const RunnerLimits limits = runner_limits(options, first);
    const Model::Impl& prepared = *model->impl_;
    require_memory(first, prepared.prepared->workspace_bytes(limits, prepared.cache));
    runner = prepared.prepared->make_runner(limits, prepared.cache);
    pool.grow(first);
    tokens.reserve(static_cast<std::size_t>(options.batch_tokens));
    slices.reserve(sequences.size());
    parts.reserve(sequences.size());
    selected.reserve(static_cast<std::size_t>(options.batch_logits));
    rows.reserve(static_cast<std::size_t>(options.batch_logits));
    samplers.reserve(static_cast<std::size_t>(options.batch_logits));
    drawn.reserve(static_cast<std::size_t>(options.batch_logits));
    shown.reserve(static_cast<std::size_t>(options.batch_logits));
    next.reserve(sequences.size());
  }

  [[nodiscard]] std::size_t bytes_of(std::int64_t pages) const {
    return static_cast<std::size_t>(pages) * model->impl_->cache_page_bytes;
  }
  void require_memory(std::int64_t pages, std::size_t workspace = 0) const {
    model->impl_->backend->require_memory(bytes_of(pages) + workspace,
                                          fmt::format("a cache of {} tokens{}", pages * kCachePageTokens,
                                                      workspace > 0 ? " and what a session works in" : ""));
  }

  Sequence& place_of(SequenceId id) { return sequences[static_cast<std::size_t>(id) % sequences.size()]; }
  Sequence& at(SequenceId id) {
    if (id < 0 || place_of(id).id != id || !place_of(id).open)
      throw Error(ErrorCode::kInvalidArgument, fmt::format("sequence {} is not open", id));
    return place_of(id);
  }

  // Ids tell places apart by the remainder, and sequences in one place by the rest.
  SequenceId open(int adapter) {
    const auto free =
        std::find_if(sequences.begin(), sequences.end(), [](const Sequence& sequence) { return !sequence.open; });
    if (free == sequences.end()) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{} sequences are open, the session holds no more", sequences.size()));
    }
    const SequenceId before = free->id;
    free->id = before < 0 ? free - sequences.begin() : before + static_cast<SequenceId>(sequences.size());
    free->open = true;
    free->adapter = adapter;
    return free->id;
  }

  void truncate(Sequence& sequence, std::int64_t length) {
    sequence.length = length;
    while (static_cast<std::int64_t>(sequence.pages.size()) > pages_for(length)) {
      pool.release(sequence.pages.back());
      sequence.pages.pop_back();
    }
    if (!options.prefix_cache) return;
    sequence.tokens.resize(static_cast<std::size_t>(length));
    sequence.contents.resize(std::min(sequence.contents.size(), static_cast<std::size_t>(length / kCachePageTokens)));
    publish(sequence, length);
  }

  // Lets the full pages of so many tokens be found.
  void publish(Sequence& sequence, std::int64_t length) {
    for (std::size_t i = sequence.contents.size(); static_cast<std::int64_t>(i + 1) * kCachePageTokens <= length; ++i) {
      const PagePool::Found found =
          pool.publish(sequence.pages[i], i == 0 ? sequence.beginning() : sequence.contents.back(),
                       std::span(sequence.tokens).subspan(i * kCachePageTokens, kCachePageTokens));
      sequence.pages[i] = found.page;
      sequence.contents.push_back(found.content);
    }
  }

  // Whether the page that the next token goes to must be copied first.
  [[nodiscard]] bool must_copy(const Sequence& sequence) const {
    return sequence.length % kCachePageTokens != 0 &&
           !pool.is_writable(sequence.pages[static_cast<std::size_t>(sequence.length / kCachePageTokens)]);
  }

  [[nodiscard]] std::int64_t pages_needed(const Sequence& sequence, std::int64_t count) const {
    if (count == 0) return 0;
    const std::int64_t more = pages_for(sequence.length + count) - static_cast<std::int64_t>(sequence.pages.size());
    return std::max<std::int64_t>(0, more) + (must_copy(sequence) ? 1 : 0);
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
      const std::size_t hidden_wanted =
          takes_hidden ? input.tokens.size() * static_cast<std::size_t>(model->info().hidden) : 0;
      if (input.hidden.size() != hidden_wanted) {
        throw Error(ErrorCode::kInvalidArgument, fmt::format("sequence {}: {} hidden values, expected {}",
                                                             input.sequence, input.hidden.size(), hidden_wanted));
      }
      needed += pages_needed(sequence, static_cast<std::int64_t>(input.tokens.size()));
    }
    make_available(needed);
  }

  // Sees to it that the pool can give so many pages: the cache grows as long as it may, then kept pages go.
  void make_available(std::int64_t needed) {
    if (needed <= pool.free()) return;
    const std::int64_t pages = pool.size();
    const std::int64_t missing = needed - pool.available();
    if (pages + missing > page_limit) {
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("the cache is full: {} more pages of {} tokens are needed, {} are free", needed,
                              kCachePageTokens, pool.available() + page_limit - pages));
    }
    const std::size_t memory = model->impl_->backend->available_memory();
    std::int64_t grown = std::min(page_limit, std::max(2 * pages, pages + needed - pool.free()));
    if (bytes_of(grown) > memory) grown = pages + std::max<std::int64_t>(missing, 0);
    if (grown == pages) return;
    require_memory(grown);
    runner->grow_cache(static_cast<int>(grown));
    pool.grow(grown - pages);
  }

  void make_room(Sequence& sequence, std::int64_t count) {
    if (must_copy(sequence)) {
      PageId& last = sequence.pages[static_cast<std::size_t>(sequence.length / kCachePageTokens)];
      const PageId copy = pool.take();
      runner->copy_page(last, copy);
      pool.release(last);
      last = copy;
      ++stats.copied;
    }
    while (static_cast<std::int64_t>(sequence.pages.size()) < pages_for(sequence.length + count))
      sequence.pages.push_back(pool.take());
  }

  // Whether a sequence of this length may be in one step with those of the pass.
  [[nodiscard]] bool rotates_with_pass(std::int64_t length) const {
    const Model::Impl& of = *model->impl_;
    if (slices.empty() || of.backend->capabilities().angles_by_sequence) return true;
    return std::all_of(of.plan.ropes.begin(), of.plan.ropes.end(), [&](const RopeTable& rope) {
      if (!rope.frequencies_of) return true;
      std::vector<float> theirs(rope.frequencies.size());
      std::vector<float> its(rope.frequencies.size());
      sequence_frequencies(rope, slices.front(), theirs);
      rope.frequencies_of(length, its);
      return its == theirs;
    });
  }

  // Adds tokens [begin, ...) of an input to the pass, as many as fit. from: the first whose logits are wanted.
  std::size_t add(const SequenceInput& input, int index, std::size_t begin, std::size_t from) {
    std::size_t end =
        std::min(input.tokens.size(), begin + static_cast<std::size_t>(options.batch_tokens) - tokens.size());
    const std::size_t room = static_cast<std::size_t>(options.batch_logits) - selected.size();
    end = std::min(end, std::max(begin, from) + room);
    if (end <= begin) return 0;
    Sequence& sequence = at(input.sequence);
    const std::int64_t length = sequence.length + static_cast<std::int64_t>(input.tokens.size() - begin);
    if (!rotates_with_pass(length)) return 0;
    const std::span<const TokenId> added = input.tokens.subspan(begin, end - begin);
    make_room(sequence, static_cast<std::int64_t>(added.size()));
    slices.push_back({static_cast<int>(tokens.size()), static_cast<int>(added.size()), sequence.length, sequence.pages,
                      length, sequence.adapter});
    parts.push_back({index, &sequence, begin, added, length - static_cast<std::int64_t>(input.guessed)});
    for (std::size_t i = begin; i < end; ++i) {
      if (i >= from) {
        selected.push_back(static_cast<int>(tokens.size()));
        rows.push_back({index, i, {}});
      }
      tokens.push_back(input.tokens[i]);
    }
    const auto width = static_cast<std::size_t>(model->info().hidden);
    if (!input.hidden.empty()) {
      const std::span<const float> their = input.hidden.subspan(begin * width, added.size() * width);
      hidden.insert(hidden.end(), their.begin(), their.end());
    }
    return added.size();
  }

  // The cache holds a part.
  void keep(const Part& part) {
    Sequence& sequence = *part.sequence;
    sequence.length += static_cast<std::int64_t>(part.tokens.size());
    if (!options.prefix_cache) return;
    sequence.tokens.insert(sequence.tokens.end(), part.tokens.begin(), part.tokens.end());
    publish(sequence, std::min(sequence.length, part.guessed_from));
  }

  void restore(Sequence& sequence, const SavedSequence& saved) {
    const std::int64_t kept = sequence.length / kCachePageTokens;
    const std::int64_t missing = pages_for(saved.length) - kept;
    const bool frees_last = sequence.length % kCachePageTokens != 0 && !must_copy(sequence);
    make_available(missing - (frees_last ? 1 : 0));
    truncate(sequence, kept * kCachePageTokens);
    for (std::int64_t i = 0; i < missing; ++i) sequence.pages.push_back(pool.take());
    const auto skipped = static_cast<std::size_t>(kept);
    runner->write_pages(std::span(sequence.pages).subspan(skipped), skipped, {saved.bytes.get(), saved.size});
    sequence.length = saved.length;
    if (!options.prefix_cache) return;
    sequence.tokens = saved.tokens;
    publish(sequence, sequence.length);
  }

  void run_pass(const Results& results) {
    bool draws = false;
    for (const LogitsRow& row : rows) {
      Sampler* const sampler = results.sampler(static_cast<std::size_t>(row.input));
      samplers.push_back(sampler == nullptr || sampler->must_see_logits() ? nullptr : sampler);
      draws |= samplers.back() != nullptr;
    }
    Batch batch{tokens, slices, selected};
    if (takes_hidden) batch.input = hidden.data();
    if (draws) batch.samplers = samplers;
    runner->submit(batch);
    drawn.assign(rows.size(), -1);
    if (draws) {
      runner->wait_tokens(drawn);
    } else {
      runner->wait();
    }
    see_logits(draws);
    require_finite(batch, results);
    if (options.on_hidden) show_hidden(results);
    for (const Part& part : parts) {
      if (!results.has_failed(part.input)) keep(part);
    }
    deliver(results);
    clear_pass();
  }

  // Of whole parts, or of the rows whose logits are wanted, as the plan has it.
  void show_hidden(const Results& results) {
    const Plan& plan = model->impl_->plan;
    const float* const all = runner->hidden();
    const auto width = static_cast<std::size_t>(model->info().hidden);
    if (plan.buffers[static_cast<std::size_t>(plan.output(kHiddenOutput))].selected) {
      for (std::size_t i = 0; i < rows.size(); ++i) {
        if (!results.has_failed(rows[i].input))
          options.on_hidden({rows[i].input, rows[i].token, {all + i * width, width}});
      }
      return;
    }
    std::size_t row = 0;
    for (const Part& part : parts) {
      if (!results.has_failed(part.input))
        options.on_hidden({part.input, part.begin, {all + row * width, part.tokens.size() * width}});
      row += part.tokens.size();
    }
  }

  // Of the rows that have no sampler.
  void see_logits(bool draws) {
    const float* const all = draws ? nullptr : runner->wait();
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (samplers[i] != nullptr) continue;
      const float* const row = draws ? runner->logits_of(i) : all + static_cast<std::int64_t>(i) * row_width;
      rows[i].values = {row, static_cast<std::size_t>(row_width)};
    }
  }

  void require_finite(const Batch& batch, const Results& results) {
    const auto before = results.failed == nullptr ? 0 : results.failed->inputs.size();
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (samplers[i] != nullptr ? drawn[i] >= 0 : all_finite(rows[i].values)) continue;
      if (results.failed == nullptr) throw Error(ErrorCode::kCorruptFile, not_finite_message(batch));
      if (!results.has_failed(rows[i].input)) results.failed->inputs.push_back(rows[i].input);
    }
    if (results.failed != nullptr && results.failed->inputs.size() > before)
      results.failed->message = not_finite_message(batch);
  }

  // Before the sink is called, which may throw, every sampler has drawn.
  void deliver(const Results& results) {
    shown.clear();
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (results.has_failed(rows[i].input)) continue;
      const auto input = static_cast<std::size_t>(rows[i].input);
      Sampler* const sampler = results.sampler(input);
      if (sampler == nullptr) {
        shown.push_back(rows[i]);
      } else {
        results.next[input] = samplers[i] != nullptr ? drawn[i] : sampler->sample(rows[i].values);
      }
    }
    if (!shown.empty()) results.sink(shown);
  }

  void step(std::span<const SequenceInput> inputs, const Results& results) {
    validate(inputs);
    clear_pass();  // what a step that failed may have left
    cancelled.store(false);
    for (std::size_t index = 0; index < inputs.size(); ++index) {
      const SequenceInput& input = inputs[index];
      const std::size_t total = input.tokens.size();
      if (total == 0) continue;
      const std::size_t from = results.wanted_from(input, index);
      const Sequence& sequence = at(input.sequence);
      const auto goes_on = [&] { return !sequence.is_cancelled() && !results.has_failed(static_cast<int>(index)); };
      for (std::size_t done = 0; done < total && goes_on();) {
        const std::size_t added = add(input, static_cast<int>(index), done, from);
        done += added;
        if (done < total || added == 0) {  // the pass is full
          run_pass(results);
          if (cancelled.load()) throw Error(ErrorCode::kCancelled, "the step was cancelled");
        }
      }
    }
    if (!tokens.empty()) run_pass(results);
  }

  [[nodiscard]] std::string not_finite_message(Batch batch) {
    batch.samplers = {};
    const std::string place = runner->not_finite_at(batch);
    return fmt::format("{}: the {} are not finite (NaN or infinite){}{}", model->impl_->path,
                       options.hidden_states ? "hidden states" : "logits",
                       place.empty() ? "" : "; the first values that are not come from: ", place);
  }

  void clear_pass() {
    tokens.clear();
    hidden.clear();
    slices.clear();
    parts.clear();
    selected.clear();
    rows.clear();
    samplers.clear();
  }
};

Session::Session(std::shared_ptr<const Model> model, const SessionOptions& options) {
  check(options);
  impl_ = std::make_unique<Impl>(std::move(model), options);
}

Session::~Session() = default;

SequenceId Session::open(const std::string& adapter) {
  return impl_->open(impl_->model->impl_->adapter(adapter));
}

SequenceId Session::fork(SequenceId id) {
  const Sequence& from = impl_->at(id);
  const SequenceId copy = impl_->open(from.adapter);
  Sequence& to = impl_->at(copy);
  to.length = from.length;
  to.tokens = from.tokens;
  to.contents = from.contents;
  to.pages.assign(from.pages.begin(), from.pages.begin() + pages_for(from.length));
  for (const PageId page : to.pages) impl_->pool.share(page);
  return copy;
}

void Session::close(SequenceId id) {
  Sequence& sequence = impl_->at(id);
  impl_->truncate(sequence, 0);
  sequence.open = false;
}

std::int64_t Session::length(SequenceId id) const {
  return impl_->at(id).length;
}

void Session::truncate(SequenceId id, std::int64_t length) {
  Sequence& sequence = impl_->at(id);
  if (length < 0 || length > sequence.length) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("length is {}, expected 0 to {}", length, sequence.length));
  }
  impl_->truncate(sequence, length);
}

std::int64_t Session::reuse(SequenceId id, std::span<const TokenId> tokens) {
  const std::int64_t found = find(id, tokens.first(tokens.empty() ? 0 : tokens.size() - 1));
  impl_->stats.asked_tokens += static_cast<std::int64_t>(tokens.size());
  impl_->stats.reused_tokens += found;
  return found;
}

std::int64_t Session::find(SequenceId id, std::span<const TokenId> tokens) {
  Sequence& sequence = impl_->at(id);
  if (!impl_->options.prefix_cache)
    throw Error(ErrorCode::kInvalidArgument, "the session has no prefix cache (SessionOptions)");
  if (sequence.length != 0) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("sequence {} holds {} tokens, expected none", id, sequence.length));
  }
  impl_->truncate(sequence, 0);  // pages of a step that failed
  ContentId content = sequence.beginning();
  for (std::size_t begin = 0; begin + kCachePageTokens <= tokens.size(); begin += kCachePageTokens) {
    const std::span<const TokenId> page = tokens.subspan(begin, kCachePageTokens);
    const std::optional<PagePool::Found> found = impl_->pool.find(content, page);
    if (!found) break;
    content = found->content;
    sequence.pages.push_back(found->page);
    sequence.contents.push_back(content);
    sequence.tokens.insert(sequence.tokens.end(), page.begin(), page.end());
  }
  sequence.length = static_cast<std::int64_t>(sequence.tokens.size());
  return sequence.length;
}

void Session::forget(SequenceId id, std::int64_t kept) {
  Sequence& sequence = impl_->at(id);
  while (static_cast<std::int64_t>(sequence.pages.size()) * kCachePageTokens > kept) {
    impl_->pool.release_and_forget(sequence.pages.back());
    sequence.pages.pop_back();
  }
  close(id);
}

std::size_t Session::saved_bytes(SequenceId id) const {
  return impl_->bytes_of(pages_for(impl_->at(id).length));
}

SavedSequence Session::save(SequenceId id) const {
  const Sequence& sequence = impl_->at(id);
  SavedSequence out;
  out.length = sequence.length;
  out.tokens = sequence.tokens;
  if (sequence.adapter != kNoAdapter)
    out.adapter = impl_->model->info().adapters[static_cast<std::size_t>(sequence.adapter)];
  out.size = saved_bytes(id);
  const auto pages = static_cast<std::size_t>(pages_for(sequence.length));
  try {
    out.bytes = std::make_unique_for_overwrite<std::byte[]>(out.size);
  } catch (const std::bad_alloc&) {
    throw Error(ErrorCode::kOutOfMemory, fmt::format("there is no memory for {} of a sequence", byte_text(out.size)));
  }
  impl_->runner->read_pages(std::span(sequence.pages).first(pages), {out.bytes.get(), out.size});
  return out;
}

void Session::restore(SequenceId id, const SavedSequence& saved) {
  Sequence& sequence = impl_->at(id);
  if (saved.size != impl_->bytes_of(pages_for(saved.length))) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("restore: {} tokens were saved in {} bytes, expected {}", saved.length, saved.size,
                            impl_->bytes_of(pages_for(saved.length))));
  }
  if (sequence.length > saved.length || sequence.tokens.size() > saved.tokens.size() ||
      !std::equal(sequence.tokens.begin(), sequence.tokens.end(), saved.tokens.begin())) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("restore: sequence {} holds {} tokens, expected a beginning of the {} that were saved", id,
                            sequence.length, saved.length));
  }
  if (impl_->model->impl_->adapter(saved.adapter) != sequence.adapter) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("restore: sequence {} has another adapter than what was saved", id));
  }
  impl_->restore(sequence, saved);
}

void Session::step(std::span<const SequenceInput> inputs, const LogitsSink& sink) {
  impl_->step(inputs, {sink, {}, {}});
}

void Session::sample(std::span<const SequenceInput> inputs, std::span<Sampler* const> samplers, std::span<TokenId> next,
                     const LogitsSink& sink, NotFinite* failed) {
  if (impl_->options.hidden_states)
    throw Error(ErrorCode::kInvalidArgument, "sample: the session computes hidden states, and no logits to draw from");
  if (samplers.size() != inputs.size() || next.size() != inputs.size()) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("sample: {} inputs, {} samplers and room for {} tokens, expected as many of each",
                            inputs.size(), samplers.size(), next.size()));
  }
  for (std::size_t i = 0; i < samplers.size(); ++i) {
    if (samplers[i] != nullptr && std::find(samplers.begin(), samplers.begin() + static_cast<std::ptrdiff_t>(i),
                                            samplers[i]) != samplers.begin() + static_cast<std::ptrdiff_t>(i))
      throw Error(ErrorCode::kInvalidArgument, fmt::format("sample: input {} has another's sampler", i));
  }
  impl_->next.assign(inputs.size(), -1);  // not `next` itself, which may be where the inputs' tokens lie
  impl_->step(inputs, {sink, samplers, impl_->next, failed});
  std::copy(impl_->next.begin(), impl_->next.end(), next.begin());
}

std::vector<std::vector<std::int64_t>> Session::expert_counts() const {
  return impl_->runner->expert_counts();
}

CacheStats Session::cache_stats() const {
  CacheStats out = impl_->stats;
  const PagePool::Counts counts = impl_->pool.counts();
  out.page_tokens = kCachePageTokens;
  out.limit = impl_->page_limit;
  out.pages = counts.pages;
  out.held = counts.held;
  out.shared = counts.shared;
  out.kept = counts.kept;
  out.evicted = counts.evicted;
  return out;
}

std::int64_t Session::available_pages() const {
  return impl_->pool.available() + impl_->page_limit - impl_->pool.size();
}

std::int64_t Session::pages_needed(SequenceId id, std::int64_t tokens) const {
  return impl_->pages_needed(impl_->at(id), tokens);
}

void Session::cancel() {
  impl_->cancelled.store(true);
}

void Session::cancel(SequenceId id) {
  if (id < 0 || impl_->place_of(id).id != id) return;
  std::atomic<SequenceId>& cancelled = impl_->place_of(id).cancelled;
  // A later sequence may have come here meanwhile, and been cancelled.
  SequenceId last = cancelled.load();
  while (last < id && !cancelled.compare_exchange_weak(last, id)) {
  }
}

bool Session::is_cancelled(SequenceId id) const {
  return impl_->at(id).is_cancelled();
}

}  // namespace metal_marlin
