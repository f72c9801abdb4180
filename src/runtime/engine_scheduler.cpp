#include "runtime/engine_scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <new>
#include <utility>

#include "backends/backend.h"
#include "base/seconds_since.h"
#include "runtime/engine_plan.h"

namespace metal_marlin {
namespace {

// Memory that was refused is not asked for again so soon.
constexpr std::chrono::seconds kRefusalHolds{1};
constexpr int kMostGuesses = 8;  // of full length in a step
constexpr int kPromptRows = 32;  // of logits in a pass at least, where a prompt's are asked for

std::shared_ptr<const Tokenizer> tokenizer_or_none(const Model& model) {
  try {
    return model.tokenizer();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNotFound) throw;
    return nullptr;
  }
}

}  // namespace

SessionOptions engine_session(const EngineOptions& options, int parallel) {
  SessionOptions out;
  out.max_sequences = parallel;
  out.batch_tokens = options.step_tokens;
  out.batch_logits = std::max(parallel, kPromptRows);
  if (options.speculation.any()) out.batch_logits += std::min(parallel, kMostGuesses) * options.speculation.tokens;
  out.prefix_cache = options.prefix_cache;
  out.one_order = true;
  return out;
}

SessionOptions EngineScheduler::session_options(const EngineOptions& options, const EnginePlan& plan) {
  SessionOptions out = engine_session(options, plan.parallel);
  out.cache_tokens = plan.cache_tokens;
  if (options.speculation.mtp)
    out.on_hidden = [this](const HiddenRows& rows) {
      std::vector<float>& to = hidden_[static_cast<std::size_t>(rows.input)];
      to.insert(to.end(), rows.values.begin(), rows.values.end());
    };
  return out;
}

EngineScheduler::EngineScheduler(std::shared_ptr<const Model> model, const EngineOptions& options,
                                 const EnginePlan& plan, std::function<void()> before_step)
    : model_(std::move(model)),
      options_(options),
      plan_(plan),
      before_step_(std::move(before_step)),
      tokenizer_(tokenizer_or_none(*model_)),
      session_(model_, session_options(options, plan)),
      slots_(plan.parallel),
      chunks_(options.prompt_delay),
      page_limit_(session_.cache_stats().limit),
      page_ceiling_(page_limit_) {
  if (!options.speculation.any()) return;
  speculation_.emplace(options.speculation, make_proposer(options.speculation, *model_, plan.parallel,
                                                          plan.cache_tokens, options.step_tokens));
}

void EngineScheduler::add(const std::shared_ptr<Request>& request) {
  ++stats_.requests;
  for (int i = 0; i < request->asked.samples; ++i) {
    samples_.push_back(std::make_unique<Sample>(request, i, model_->info(), plan_.context, tokenizer_));
    Sample& sample = *samples_.back();
    queue_.enter(sample);
    queue_.push(&sample);
    if (sample.target() == 0) sample.end(StopReason::kLength);  // a prompt of one token, of which logprobs are wanted
  }
}

std::vector<OwnedEvent> EngineScheduler::run() {
  std::vector<OwnedEvent> events;
  end_cancelled();
  tell(events);
  admit();
  grant();
  speculate();
  make_fit();
  step();
  end_cancelled();
  tell(events);
  return events;
}

EngineStats EngineScheduler::stats() const {
  EngineStats out = stats_;
  out.running = static_cast<int>(residents_.size());
  out.waiting = static_cast<int>(queue_.waiting().size());
  out.swapped = static_cast<int>(swapped_.size());
  out.swapped_bytes = swapped_bytes_;
  out.cache = session_.cache_stats();
  if (speculation_) out.speculation = speculation_->stats();
  return out;
}

void EngineScheduler::end_cancelled() {
  for (const auto& sample : samples_) {
    if (sample->request().cancelled && !sample->has_ended()) sample->end(StopReason::kCancelled);
  }
}

// Those that ended go, and their pages.
void EngineScheduler::tell(std::vector<OwnedEvent>& events) {
  for (const auto& sample : samples_) {
    if (!sample->has_news()) continue;
    events.push_back(sample->take_event());
    if (!sample->has_ended()) continue;
    ++(events.back().error ? stats_.failed : stats_.finished);
    const auto resident =
        std::find_if(residents_.begin(), residents_.end(), [&](const Resident& r) { return r.sample == sample.get(); });
    if (resident != residents_.end()) {
      leave(*resident);
      residents_.erase(resident);
    }
    queue_.remove(sample.get());
    queue_.leave(*sample);
    forget_swapped(*sample);
    if (blocked_ == sample.get()) blocked_ = nullptr;
  }
  std::erase_if(samples_, [](const auto& sample) { return sample->has_ended(); });
}

// ---- who is in the cache ----------------------------------------------------

// Pages for those that come: what is there, less what the prompts still want that were let in.
std::int64_t EngineScheduler::pages_left() const {
  std::int64_t pages = session_.available_pages() - (page_limit_ - page_ceiling_);
  for (const Resident& r : residents_) pages -= session_.pages_needed(r.sequence, remaining(r));
  return pages;
}

// A sample shares the prompt's pages of one that came before, once they are computed.
bool EngineScheduler::waits_for_sibling(const Sample& sample) const {
  if (sample.asked().samples == 1 || sample.wants_whole_prompt()) return false;
  bool waits = false;
  for (const Resident& r : residents_) {
    if (&r.sample->request() != &sample.request()) continue;
    if (length(r) >= sample.prompt_size() - 1) return false;
    waits = true;
  }
  return waits;
}

void EngineScheduler::admit() {
  if (std::chrono::steady_clock::now() > ceiling_until_) page_ceiling_ = page_limit_;
  if (residents_.empty()) {
    was_refused_ = false;
    blocked_ = nullptr;
  }
  while (!was_refused_) {
    Sample* const next =
        queue_.next([&](const Sample& sample) { return !waits_for_sibling(sample) && !slots_.must_wait(sample); });
    if (next == nullptr || (next == blocked_ && pages_left() <= blocked_pages_)) return;
    const bool has_slot = static_cast<int>(residents_.size()) < plan_.parallel;
    if (has_slot && enter(*next)) continue;
    if (!outranks_last(*next) || (has_slot && !could_enter_without_lower(*next))) {
      if (!has_slot) return;
      blocked_ = next;
      blocked_pages_ = pages_left();
      return;
    }
    preempt_last();
  }
}

// Lets a sample in when all that it has to compute finds room, and a page is left for each that is there to go on.
bool EngineScheduler::enter(Sample& sample) {
  const std::int64_t left = pages_left() - static_cast<std::int64_t>(residents_.size());
  const bool may_fail = !residents_.empty();
  const std::int64_t kept = session_.available_pages();
  const SequenceId sequence = begin_sequence(sample);
  const std::int64_t length = session_.length(sequence);
  // Pages found that nobody held are no longer there for others.
  const std::int64_t needed =
      session_.pages_needed(sequence, sample.target() - length) + kept - session_.available_pages();
  if (may_fail && needed > left) {
    session_.close(sequence);
    return false;
  }
  if (!std::exchange(sample.has_entered, true)) {
    sample.request().started = true;
    sample.usage.queue_seconds = seconds_since(sample.request().submitted);
    sample.usage.cached_tokens = sample.index() == 0 ? std::min(length, sample.prompt_size()) : 0;
    stats_.cached_tokens += sample.usage.cached_tokens;
  }
  swap_in(sample, sequence);
  sample.computed = std::max(sample.computed, session_.length(sequence));  // what was found costs its key nothing
  queue_.remove(&sample);
  const auto place = std::find_if(residents_.begin(), residents_.end(),
                                  [&](const Resident& r) { return rank_of(sample) < rank_of(*r.sample); });
  residents_.insert(
      place, Resident{&sample, sequence, slots_.take(sample), 0, speculation_ ? speculation_->begin() : nullptr});
  return true;
}

SequenceId EngineScheduler::begin_sequence(const Sample& sample) {
  if (sample.wants_whole_prompt()) return session_.open(sample.asked().adapter);
  for (const Resident& r : residents_) {
    if (&r.sample->request() != &sample.request() || length(r) < sample.prompt_size() - 1) continue;
    const SequenceId sequence = session_.fork(r.sequence);
    session_.truncate(sequence, sample.prompt_size() - 1);
    return sequence;
  }
  const SequenceId sequence = session_.open(sample.asked().adapter);
  if (options_.prefix_cache) session_.reuse(sequence, sample.tokens());
  return sequence;
}

bool EngineScheduler::outranks_last(const Sample& sample) const {
  return !residents_.empty() && sample.asked().priority < residents_.back().sample->asked().priority;
}

// Whether there would be room without all that are of a lower priority.
bool EngineScheduler::could_enter_without_lower(const Sample& sample) const {
  std::int64_t pages = pages_left();
  for (const Resident& r : residents_) {
    if (sample.asked().priority < r.sample->asked().priority)
      pages += pages_for(length(r)) + session_.pages_needed(r.sequence, remaining(r));
  }
  return pages_for(sample.target()) + static_cast<std::int64_t>(residents_.size()) <= pages;
}

// It waits again, as one of the first of its key. What the cache held of it is copied back then, or, where it could not
// be kept, computed again from what is still found.
void EngineScheduler::preempt_last() {
  const Resident last = std::move(residents_.back());
  residents_.pop_back();
  swap_out(last);
  leave(last);
  ++last.sample->usage.preemptions;
  ++stats_.preemptions;
  queue_.push(last.sample);
}

void EngineScheduler::leave(const Resident& r) {
  slots_.give_back(r.slot, *r.sample, length(r));
  session_.close(r.sequence);
}

void EngineScheduler::swap_out(const Resident& r) {
  const std::size_t bytes = session_.saved_bytes(r.sequence);
  if (bytes == 0 || swapped_bytes_ + bytes > plan_.swap_bytes) return;
  try {
    swapped_.emplace(r.sample, session_.save(r.sequence));
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOutOfMemory) throw;
    return;
  }
  swapped_bytes_ += bytes;
  ++stats_.swapped_out;
}

// Where memory for it is refused the sample is computed again, and its steps tell of what is missing.
void EngineScheduler::swap_in(const Sample& sample, SequenceId sequence) {
  const auto found = swapped_.find(&sample);
  if (found == swapped_.end()) return;
  try {
    if (found->second.length > session_.length(sequence)) {
      session_.restore(sequence, found->second);
      ++stats_.swapped_in;
    }
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kOutOfMemory) throw;
  }
  forget_swapped(sample);
}

void EngineScheduler::forget_swapped(const Sample& sample) {
  const auto found = swapped_.find(&sample);
  if (found == swapped_.end()) return;
  swapped_bytes_ -= found->second.size;
  swapped_.erase(found);
}

// ---- conversations ----------------------------------------------------------

std::vector<EngineSlot> EngineScheduler::slots() const {
  std::vector<EngineSlot> out = slots_.all();
  for (const Resident& r : residents_) out[static_cast<std::size_t>(r.slot)].tokens = length(r);
  return out;
}

// Idle slots are as many as sequences that can be opened.
SavedSequence EngineScheduler::save(int slot, const std::string& fair_key) {
  const EngineSlots::Conversation& last = slots_.conversation(slot, fair_key);
  const SequenceId sequence = session_.open(last.adapter);
  try {
    if (session_.find(sequence, last.tokens) == 0) {
      throw Error(ErrorCode::kNotFound,
                  fmt::format("slot {} holds {} tokens, of which the cache has no whole page of {}", slot,
                              last.tokens.size(), kCachePageTokens));
    }
    SavedSequence out = session_.save(sequence);
    session_.close(sequence);
    return out;
  } catch (...) {
    session_.close(sequence);
    throw;
  }
}

std::int64_t EngineScheduler::restore(int slot, const SavedSequence& saved, const std::string& fair_key) {
  slots_.require_idle(slot);
  const SequenceId sequence = session_.open(saved.adapter);
  try {
    put_back(sequence, saved);
  } catch (...) {
    session_.close(sequence);
    throw;
  }
  session_.close(sequence);
  const std::int64_t whole = saved.length / kCachePageTokens * kCachePageTokens;
  slots_.put(slot, {{saved.tokens.begin(), saved.tokens.begin() + whole}, saved.adapter, fair_key});
  return whole;
}

// It takes no page that is promised to those that run.
void EngineScheduler::put_back(SequenceId sequence, const SavedSequence& saved) {
  const std::int64_t left = pages_left() - static_cast<std::int64_t>(residents_.size());
  const std::int64_t kept = session_.available_pages();
  const std::int64_t found = session_.find(sequence, saved.tokens);
  if (found == saved.length) return;
  const std::int64_t needed = session_.pages_needed(sequence, saved.length - found) + kept - session_.available_pages();
  const std::int64_t all = pages_for(saved.length);
  if (all > page_limit_) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("a conversation of {} tokens: the cache holds {}",
                                                         saved.length, page_limit_ * kCachePageTokens));
  }
  if (needed > left) {
    throw Error(ErrorCode::kBusy, fmt::format("a conversation of {} pages: beside what runs the cache has room for {}",
                                              all, std::max<std::int64_t>(0, left) + all - needed));
  }
  session_.restore(sequence, saved);
}

std::int64_t EngineScheduler::erase(int slot, const std::string& fair_key) {
  const EngineSlots::Conversation& last = slots_.conversation(slot, fair_key);
  const auto held = static_cast<std::int64_t>(last.tokens.size());
  if (options_.prefix_cache && held > 0) {
    const SequenceId sequence = session_.open(last.adapter);
    session_.find(sequence, last.tokens);
    session_.forget(sequence, slots_.shared(slot) / kCachePageTokens * kCachePageTokens);
  }
  slots_.put(slot, {});
  return held;
}

// ---- what is in a step ------------------------------------------------------

// A prompt that others share is computed but for its last token, until they have it.
std::int64_t EngineScheduler::wanted(const Resident& r) const {
  const std::int64_t shared = r.sample->prompt_size() - 1;
  if (r.sample->asked().samples == 1 || length(r) >= shared) return remaining(r);
  const auto waiting = queue_.waiting();
  const bool is_awaited = std::any_of(waiting.begin(), waiting.end(),
                                      [&](const Sample* other) { return &other->request() == &r.sample->request(); });
  return is_awaited ? shared - length(r) : remaining(r);
}

void EngineScheduler::grant() {
  int decoding = 0;
  for (Resident& r : residents_) {
    r.granted = wanted(r) == 1 ? 1 : 0;
    decoding += static_cast<int>(r.granted);
  }
  grant_prompts(std::min(options_.step_tokens - decoding, chunks_.limit(decoding > 0)));
}

// Half of the budget is for the prompt of the first rank, so that it is not starved; otherwise those with the least
// left go first, so that short ones do not wait for long ones.
void EngineScheduler::grant_prompts(std::int64_t budget) {
  std::vector<Resident*> prompts;
  for (Resident& r : residents_) {
    if (r.granted == 0) prompts.push_back(&r);
  }
  if (prompts.empty()) return;
  const auto give = [&](Resident& r, std::int64_t most) {
    const std::int64_t given = std::min(wanted(r) - r.granted, most);
    r.granted += given;
    budget -= given;
  };
  Resident& first = *prompts.front();
  give(first, std::max<std::int64_t>(1, budget / 2));
  std::stable_sort(prompts.begin() + 1, prompts.end(), [&](const Resident* a, const Resident* b) {
    const int of_a = a->sample->asked().priority;
    const int of_b = b->sample->asked().priority;
    return of_a != of_b ? of_a < of_b : wanted(*a) < wanted(*b);
  });
  for (std::size_t i = 1; i < prompts.size(); ++i) give(*prompts[i], budget);
  give(first, budget);
}

// Guesses for those that get their next token, with what is left of the step's tokens.
void EngineScheduler::speculate() {
  if (!speculation_) return;
  std::vector<Speculation::Request> requests;
  std::int64_t granted = 0;
  int decoding = 0;
  for (Resident& r : residents_) {
    granted += r.granted;
    r.guess->clear();
    if (r.granted != 1 || !draws(r)) continue;
    ++decoding;
    const auto most = std::min<std::int64_t>(r.sample->most_left() - 1, options_.speculation.tokens);
    requests.push_back({r.guess.get(), r.sample->tokens(), static_cast<int>(most), &r.sample->sampler()});
  }
  const int rows = engine_session(options_, plan_.parallel).batch_logits - decoding;
  speculation_->propose(requests, decoding,
                        static_cast<int>(std::min<std::int64_t>(options_.step_tokens - granted, rows)));
}

std::int64_t EngineScheduler::missing_pages() const {
  std::int64_t missing = page_limit_ - page_ceiling_ - session_.available_pages();
  for (const Resident& r : residents_) missing += session_.pages_needed(r.sequence, r.granted + r.guessed());
  return missing;
}

// Guesses make room, then those of the last rank. The first of all can always go on, as a request alone fits.
void EngineScheduler::make_fit() {
  for (std::size_t i = residents_.size(); speculation_ && i-- > 0 && missing_pages() > 0;) residents_[i].guess->clear();
  for (;;) {
    const std::int64_t missing = missing_pages();
    if (missing <= 0 || residents_.empty()) return;
    if (residents_.size() > 1) {
      preempt_last();
      continue;
    }
    Resident& only = residents_.front();
    only.granted = 0;
    only.sample->fail(Error(ErrorCode::kOutOfMemory,
                            fmt::format("the cache cannot grow beyond {} tokens, and {} more pages of {} are needed",
                                        page_ceiling_ * kCachePageTokens, missing, kCachePageTokens)));
    return;
  }
}

// One whose grammar cannot go on takes no part in the step.
void EngineScheduler::prepare(Resident& r) {
  try {
    r.sample->prepare_draw();
  } catch (const Error& error) {
    r.granted = 0;
    r.sample->fail(error);
  }
}

void EngineScheduler::step() {
  std::vector<Resident*> in;
  for (Resident& r : residents_) {
    if (r.granted > 0 && draws(r) && r.guessed() == 0) prepare(r);
    if (r.granted > 0) in.push_back(&r);
  }
  if (in.empty()) return;
  try {
    if (before_step_) before_step_();
    run_step(in);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kOutOfMemory) return out_of_memory(error.what());
    fail_step(error);
  } catch (const std::bad_alloc&) {
    out_of_memory("a step found no memory");
  } catch (const std::exception& error) {
    fail_step(Error(ErrorCode::kInternal, error.what()));
  }
}

SequenceInput EngineScheduler::input_of(const Resident& r) const {
  Sample& sample = *r.sample;
  if (r.guessed() > 0) return {r.sequence, r.guess->step(), 0, static_cast<std::size_t>(r.guessed())};
  const std::int64_t begin = length(r);
  SequenceInput input{r.sequence,
                      sample.tokens().subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(r.granted)),
                      draws(r) && sample.wants_logits() ? kLastLogits : kNoLogits};
  const std::int64_t before = sample.next_prompt_logprob() - 1;  // its logits tell the next one
  if (sample.wants_whole_prompt() && before < begin + r.granted)
    input.logits_from = static_cast<std::size_t>(before - begin);
  return input;
}

// Logits that tell a sample's token at `following`. \returns the token that is still to be taken; -1: none.
TokenId EngineScheduler::take_logits(Resident& r, std::int64_t following, std::span<const float> logits) {
  Sample& sample = *r.sample;
  if (r.guessed() > 0) {
    if (r.guess->check(sample, logits)) ++stats_.generated_tokens;
  } else if (following < sample.prompt_size()) {
    sample.take_prompt_logits(logits);
  } else if (sample.draws() && following == sample.target()) {
    return sample.draw(logits);
  }
  return -1;
}

void EngineScheduler::run_step(std::span<Resident* const> in) {
  std::vector<SequenceInput> inputs;
  std::vector<Sampler*> samplers;
  std::vector<std::int64_t> begins;
  std::vector<TokenId> next(in.size(), -1);
  std::vector<TokenId> drawn(in.size(), -1);  // from logits that were shown
  for (const Resident* const r : in) {
    const bool is_shown = r->guessed() > 0 || r->sample->wants_logits();
    inputs.push_back(input_of(*r));
    samplers.push_back(draws(*r) && !is_shown ? &r->sample->sampler() : nullptr);
    begins.push_back(length(*r));
  }
  const LogitsSink sink = [&](std::span<const LogitsRow> rows) {
    for (const LogitsRow& row : rows) {
      const auto index = static_cast<std::size_t>(row.input);
      drawn[index] = take_logits(*in[index], begins[index] + static_cast<std::int64_t>(row.token) + 1, row.values);
    }
  };
  NotFinite failed;
  if (options_.speculation.mtp) hidden_.assign(in.size(), {});
  const auto start = std::chrono::steady_clock::now();
  session_.sample(inputs, samplers, next, sink, &failed);
  stats_.step_seconds = seconds_since(start);
  for (std::size_t i = 0; i < in.size(); ++i) next[i] = std::max(next[i], drawn[i]);
  finish_step(in, next, begins, failed);
}

// What was guessed wrong leaves the cache. A guess may be at fault where logits are not finite: the next step is
// without.
void EngineScheduler::cut_guess(Resident& r, std::int64_t begin, bool failed) {
  session_.truncate(r.sequence, std::min(length(r), begin + r.guess->checked()));
  if (failed) r.guess->distrust();
}

// Those of wrong guesses are nobody's.
void EngineScheduler::see_hidden(const Resident& r, std::int64_t begin, std::span<const float> rows) {
  const auto width = static_cast<std::size_t>(model_->info().hidden);
  const std::size_t own = r.guessed() > 0 ? static_cast<std::size_t>(r.guess->checked()) * width : rows.size();
  speculation_->see(*r.guess, r.sample->tokens(), begin, rows.first(std::min(own, rows.size())));
}

void EngineScheduler::finish_step(std::span<Resident* const> in, std::span<const TokenId> next,
                                  std::span<const std::int64_t> begins, const NotFinite& failed) {
  ++stats_.steps;
  was_refused_ = false;
  int decoding = 0;
  int prompt_tokens = 0;
  std::vector<Speculation::Sequence*> guesses;
  for (std::size_t i = 0; i < in.size(); ++i) {
    Resident& r = *in[i];
    Sample& sample = *r.sample;
    const bool has_failed =
        std::find(failed.inputs.begin(), failed.inputs.end(), static_cast<int>(i)) != failed.inputs.end();
    if (r.guess && speculation_->wants_hidden()) see_hidden(r, begins[i], hidden_[i]);
    if (r.guessed() > 0) cut_guess(r, begins[i], has_failed);
    if (r.guess && r.granted == 1) guesses.push_back(r.guess.get());
    const auto granted = static_cast<int>(r.granted);
    (granted == 1 ? decoding : prompt_tokens) += granted;
    const std::int64_t now = length(r);
    if (now - granted < sample.prompt_size() || granted > 1) stats_.prompt_tokens += granted;
    queue_.serve(sample, std::max<std::int64_t>(0, now - sample.computed));
    sample.computed = std::max(sample.computed, now);
    if (r.guessed() > 0) continue;
    if (has_failed) {
      sample.fail(Error(ErrorCode::kCorruptFile, failed.message));
    } else if (next[i] >= 0) {
      ++stats_.generated_tokens;
      sample.take(next[i]);
    } else if (!sample.draws() && now == sample.target()) {
      sample.end(StopReason::kLength);
    }
  }
  chunks_.record(decoding, prompt_tokens, stats_.step_seconds);
  if (speculation_) speculation_->record(guesses, decoding, prompt_tokens == 0 ? stats_.step_seconds : 0);
}

// ---- steps that fail --------------------------------------------------------

// Nothing was changed. The cache is taken to be as large as it can be, and who came last makes room; until a step
// succeeds nobody is let in, so that there are fewer each time.
void EngineScheduler::out_of_memory(const char* what) {
  was_refused_ = true;
  page_ceiling_ = session_.cache_stats().pages;
  ceiling_until_ = std::chrono::steady_clock::now() + kRefusalHolds;
  if (residents_.size() > 1) {
    preempt_last();
  } else {
    residents_.front().sample->fail(Error(ErrorCode::kOutOfMemory, what));
  }
}

void EngineScheduler::fail_step(const Error& error) {
  for (Resident& r : residents_) {
    if (r.granted > 0 && !r.sample->has_ended()) r.sample->fail(error);
  }
}

}  // namespace metal_marlin
