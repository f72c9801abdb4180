// Who is in an engine's next step. One thread's; docs/engine.md says by which rules.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "metal_marlin/engine.h"
#include "runtime/engine_sample.h"
#include "runtime/engine_slots.h"
#include "runtime/fair_queue.h"
#include "runtime/prompt_chunks.h"
#include "runtime/speculation.h"

namespace metal_marlin {

// An engine's session, but for the size of its cache.
SessionOptions engine_session(const EngineOptions& options, int parallel);

class EngineScheduler {
 public:
  // before_step: for tests, called where a step may fail.
  EngineScheduler(std::shared_ptr<const Model> model, const EngineOptions& options, const EnginePlan& plan,
                  std::function<void()> before_step);

  // Its samples wait.
  void add(const std::shared_ptr<Request>& request);
  [[nodiscard]] bool is_idle() const { return samples_.empty(); }
  // Ends what was cancelled, lets in what has room, and runs one step. A step that fails is told its samples.
  // \returns what is to be told.
  std::vector<OwnedEvent> run();
  void cancel_all();
  // So far, and the cache as it is.
  [[nodiscard]] EngineStats stats() const;
  // As those of Engine.
  [[nodiscard]] std::vector<EngineSlot> slots() const;
  [[nodiscard]] SavedSequence save(int slot, const std::string& fair_key);
  std::int64_t restore(int slot, const SavedSequence& saved, const std::string& fair_key);
  std::int64_t erase(int slot, const std::string& fair_key);

 private:
  // A sample in the cache.
  struct Resident {
    Sample* sample;
    SequenceId sequence;
    int slot;
    std::int64_t granted = 0;                           // tokens in the step that is made up, but for a guess
    std::unique_ptr<Speculation::Sequence> guess = {};  // null: there is no speculation

    [[nodiscard]] int guessed() const { return guess ? guess->guessed() : 0; }
  };

  void see_hidden(const Resident& r, std::int64_t begin, std::span<const float> rows);
  [[nodiscard]] SessionOptions session_options(const EngineOptions& options, const EnginePlan& plan);
  [[nodiscard]] std::int64_t length(const Resident& r) const { return session_.length(r.sequence); }
  [[nodiscard]] std::int64_t remaining(const Resident& r) const { return r.sample->target() - length(r); }
  [[nodiscard]] std::int64_t pages_left() const;
  [[nodiscard]] bool waits_for_sibling(const Sample& sample) const;
  [[nodiscard]] std::int64_t wanted(const Resident& r) const;

  void end_cancelled();
  void tell(std::vector<OwnedEvent>& events);
  void admit();
  bool enter(Sample& sample);
  void swap_out(const Resident& r);
  void swap_in(const Sample& sample, SequenceId sequence);
  void forget_swapped(const Sample& sample);
  void leave(const Resident& r);
  void put_back(SequenceId sequence, const SavedSequence& saved);
  SequenceId begin_sequence(const Sample& sample);
  [[nodiscard]] bool outranks_last(const Sample& sample) const;
  [[nodiscard]] bool could_enter_without_lower(const Sample& sample) const;
  void preempt_last();
  void grant();
  void grant_prompts(std::int64_t budget);
  void speculate();
  [[nodiscard]] std::int64_t missing_pages() const;
  void make_fit();
  void step();
  [[nodiscard]] bool draws(const Resident& r) const { return r.sample->draws() && r.granted == remaining(r); }
  void prepare(Resident& r);
  [[nodiscard]] SequenceInput input_of(const Resident& r) const;
  TokenId take_logits(Resident& r, std::int64_t following, std::span<const float> logits);
  void run_step(std::span<Resident* const> in);
  void cut_guess(Resident& r, std::int64_t begin, bool failed);
  void finish_step(std::span<Resident* const> in, std::span<const TokenId> next, std::span<const std::int64_t> begins,
                   const NotFinite& failed);
  void out_of_memory(const char* what);
  void fail_step(const Error& error);

  std::shared_ptr<const Model> model_;
  EngineOptions options_;
  EnginePlan plan_;
  std::function<void()> before_step_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  Session session_;
  std::optional<Speculation> speculation_;
  std::vector<std::unique_ptr<Sample>> samples_;  // all that have not ended
  FairQueue queue_;
  EngineSlots slots_;
  std::vector<Resident> residents_;                           // by rank
  std::vector<std::vector<float>> hidden_;                    // of the step's residents, where guesses go by them
  std::unordered_map<const Sample*, SavedSequence> swapped_;  // of samples that wait
  std::size_t swapped_bytes_ = 0;
  PromptChunks chunks_;
  // What could not be let in, and how many pages there were for it: nothing changed until there are more.
  const Sample* blocked_ = nullptr;
  std::int64_t blocked_pages_ = 0;
  // Memory for more pages was refused: there are no more than these for a while.
  std::int64_t page_limit_;
  std::int64_t page_ceiling_;
  std::chrono::steady_clock::time_point ceiling_until_;
  bool was_refused_ = false;
  EngineStats stats_;
};

}  // namespace metal_marlin
