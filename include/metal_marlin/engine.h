/// \file
/// Many requests at a time through one model: continuous batching over a paged cache. docs/engine.md says how.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "metal_marlin/error.h"
#include "metal_marlin/generate.h"
#include "metal_marlin/grammar.h"
#include "metal_marlin/model.h"
#include "metal_marlin/sampler.h"
#include "metal_marlin/speculation.h"
#include "metal_marlin/tokenizer.h"

namespace metal_marlin {

struct EngineOptions {
  /// Most tokens of one request, prompt and answer; 0: what the model has, or less where memory holds less.
  std::int64_t context = 0;
  /// Most sequences in one step; 0: what memory is good for, at most 64.
  int parallel = 0;
  /// Most tokens in the cache, of all sequences together; 0: what fits in free memory (limits of control groups and
  /// of the process counted), or what `parallel` requests of full length need where that is less.
  std::int64_t cache_tokens = 0;
  /// Most tokens in one step, of prompts and answers together; more than `parallel`.
  int step_tokens = 512;
  /// What sequences held is found by later ones that begin alike, until the place is needed.
  bool prefix_cache = true;
  /// Where caches lie in memory of a device: bytes of the processor's memory for what the cache held of samples that
  /// lost their place. It is copied back when they go on; samples for which there is no room are computed again. 0:
  /// all are, which was faster where it was measured (benchmarks/swap.md).
  std::size_t swap_bytes = 0;
  /// Guesses of the tokens that follow, for steps to check. Answers are the same with and without.
  SpeculationOptions speculation;
  /// Most requests that wait; more are refused (kBusy).
  int queue = 256;
  /// What is free is shared with others that are still to come: so many bytes are theirs, and of the rest this part is
  /// the engine's.
  std::size_t memory_reserved = 0;
  double memory_share = 1;
  /// How much longer than otherwise a step may take that computes a piece of a prompt beside others' next tokens.
  std::chrono::milliseconds prompt_delay{50};
  /// A step that takes longer means that the engine hangs: Engine::healthy().
  std::chrono::milliseconds hang_after{60000};
};

/// What an engine made of its options and of the memory that was free.
struct EnginePlan {
  std::int64_t context = 0;
  int parallel = 0;
  std::int64_t cache_tokens = 0;
  std::size_t cache_bytes = 0;      ///< of a full cache
  std::size_t available_bytes = 0;  ///< that were free
  std::size_t swap_bytes = 0;       ///< as in EngineOptions; 0 where caches lie in the processor's memory
  /// One line: "context 40960 tokens, up to 8 sequences at a time, cache 81920 tokens in f16 (11.2 GiB of ...)".
  [[nodiscard]] std::string text() const;
  std::string kv_cache;  ///< as in LoadOptions
};

/// Of the model's own distribution: log softmax of its logits, before biases, penalties, temperature and the rest.
struct TokenLogprob {
  TokenId id = -1;
  float logprob = 0;
  std::vector<std::pair<TokenId, float>> top;  ///< the likeliest, in descending order; ties go to the lower id
  std::vector<float> asked{};                  ///< of EngineRequest::logprob_ids

  bool operator==(const TokenLogprob&) const = default;
};

struct EngineRequest {
  std::vector<TokenId> prompt;
  /// So many tokens at the end of the prompt are an answer's that goes on: penalties take them for generated.
  std::size_t answered = 0;
  /// None: until the context ends. 0 with prompt_logprobs alone: nothing is generated, the event comes with kLength.
  std::optional<int> max_tokens;
  /// Before so many neither end tokens nor stop_ids are drawn, and stop texts do not count.
  int min_tokens = 0;
  SamplerOptions sampler;
  /// What its text and the grammar's texts are said in; none: the model's. For Tokenizer::showing() of that one.
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<std::string> stop;  ///< Text that ends a sample; not part of its text but with `show_stop`.
  bool show_stop = false;
  std::vector<TokenId> stop_ids;  ///< End a sample as the model's end tokens do: kEndToken.
  bool ignore_end = false;        ///< Go on past the model's end tokens.
  /// As in GenerateOptions. Tokens of `stop_ids` come where a text of it is complete.
  std::shared_ptr<const Grammar> grammar;
  std::optional<GrammarThought> thought;
  /// So many of the `answered` tokens, the last ones, came under the grammar, which goes on behind them.
  std::size_t guided = 0;
  /// So many answers, which share the prompt's pages; sample i draws with sampler.seed + i.
  int samples = 1;
  /// -1: none; k: of each token and the k likeliest in its place.
  int logprobs = -1;
  /// Of these tokens too, wherever `logprobs` tells something (which is then not -1).
  std::vector<TokenId> logprob_ids;
  /// Of the prompt's tokens too, as `logprobs` says (which is then not -1). The prompt is then computed whole: nothing
  /// of it is taken from the prefix cache.
  bool prompt_logprobs = false;
  std::string adapter;  ///< Of those that the model was loaded with, by name; empty: none.
  /// Engine::slots(): the one that its first sample takes, and waits for while another has it; -1: any that is free.
  int slot = -1;
  int priority = 0;      ///< Smaller ones first; they also take the place of running larger ones.
  std::string fair_key;  ///< Keys of one priority take turns, by the tokens that were computed for them.
};

/// Of one request: with its last event of all of it, before then of what came so far.
struct EngineUsage {
  std::int64_t prompt_tokens = 0;
  std::int64_t cached_tokens = 0;     ///< of the prompt, that the prefix cache had
  std::int64_t generated_tokens = 0;  ///< of this sample, end tokens not counted
  int preemptions = 0;                ///< of this sample
  double queue_seconds = 0;           ///< from submit() until its first step began
  double first_token_seconds = 0;     ///< from submit() to the first token; 0: there was none
  double total_seconds = 0;           ///< from submit() to the end
};

/// What became of one sample. Views hold during the call.
struct EngineEvent {
  int sample = 0;
  std::string_view text;            ///< that is certain; whole UTF-8, may be empty; always is without a tokenizer
  std::span<const TokenId> tokens;  ///< drawn since the last event, end tokens not among them
  std::span<const TokenLogprob> logprobs;  ///< of these, where asked for
  /// In the first event of sample 0, where asked for: of each of the prompt's tokens; the first, which nothing comes
  /// before, has a logprob of 0 and no `top`.
  std::span<const TokenLogprob> prompt_logprobs;
  /// The sample's last event. A sample that failed has an error instead.
  std::optional<StopReason> finished;
  std::optional<Error> error;
  EngineUsage usage;           ///< so far; total_seconds with the last event
  std::string_view stop_text;  ///< with kStopText: which of the request's it was

  [[nodiscard]] bool is_last() const { return finished.has_value() || error.has_value(); }
};

/// Events of one request never come concurrently, those of one sample in order. They come in a thread that runs no
/// steps, one for all requests: a call that takes its time delays other requests' events, never a step. A callback
/// may submit and cancel, but not drain or destroy the engine. One that throws has its request cancelled and gets no
/// more events.
using OnEngineEvent = std::function<void(const EngineEvent&)>;

using RequestId = std::uint64_t;

struct EngineStats {
  int running = 0;               ///< samples in the cache
  int waiting = 0;               ///< samples that are not, for the first time or again
  std::int64_t requests = 0;     ///< submitted so far
  std::int64_t finished = 0;     ///< samples that ended so far, for whatever reason but an error
  std::int64_t failed = 0;       ///< samples that ended with an error
  std::int64_t refused = 0;      ///< requests: the queue was full
  std::int64_t preemptions = 0;  ///< samples that lost their place to others, so far
  std::int64_t swapped_out = 0;  ///< of these, copied to the processor's memory
  std::int64_t swapped_in = 0;   ///< copied back, so far
  int swapped = 0;               ///< that lie there
  std::size_t swapped_bytes = 0;
  std::int64_t steps = 0;
  std::int64_t prompt_tokens = 0;     ///< computed so far, again after preemptions too
  std::int64_t cached_tokens = 0;     ///< of prompts, that the prefix cache had
  std::int64_t generated_tokens = 0;  ///< drawn so far
  double step_seconds = 0;            ///< of the last step
  SpeculationStats speculation;
  CacheStats cache;
};

/// A place of a running sample, of which there are EnginePlan::parallel, and what it held last: a conversation that can
/// be saved as long as the prefix cache has it.
struct EngineSlot {
  int id = 0;
  bool is_running = false;
  RequestId request = 0;                        ///< that it runs, or ran last; 0: none
  std::string adapter;                          ///< of its sample or conversation
  std::string fair_key;                         ///< likewise
  std::int64_t prompt_tokens = 0;               ///< of that request
  std::int64_t cached_tokens = 0;               ///< of these, that the prefix cache had
  std::int64_t generated_tokens = 0;            ///< of that sample, so far
  std::int64_t tokens = 0;                      ///< that the cache holds of its sample, or held of its conversation
  std::chrono::steady_clock::time_point since;  ///< runs: of submit(); else of the last change; the epoch: unused
};

/// Runs requests until it is destroyed. All functions may be called from any thread.
class Engine {
 public:
  /// Takes memory as EnginePlan says. \throws Error (kInvalidArgument) naming the option; (kOutOfMemory).
  explicit Engine(std::shared_ptr<const Model> model, const EngineOptions& options = {});
  /// Cancels what is open, tells it, and waits for the threads (not for a step that hangs).
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Every sample of a request that is taken gets a last event.
  /// \throws Error (kInvalidArgument) naming the field, what was found and what was expected; (kBusy) when the queue is
  /// full or the engine drains; what failure() says when it is not healthy.
  RequestId submit(EngineRequest request, OnEngineEvent on_event);
  /// Makes what requests with this grammar share, so that they begin at once; it is kept while somebody has the grammar
  /// and few others were asked for since. \throws Error (kInvalidArgument, kUnsupported) where the model's tokens
  /// cannot say its texts. \param tokenizer as the requests have it.
  void prepare(const std::shared_ptr<const Grammar>& grammar, const std::shared_ptr<const Tokenizer>& tokenizer = {});
  /// Its samples end with kCancelled after the step that runs; nothing happens where they ended already.
  void cancel(RequestId request);
  /// Takes no more requests, and returns when all have ended and been told so. After `deadline` it cancels those that
  /// are left, and takes a step that goes on for more than 5 s as one that hangs. \returns whether none had to be.
  bool drain(std::chrono::milliseconds deadline);
  [[nodiscard]] EngineStats stats() const;
  /// After the last step.
  [[nodiscard]] std::vector<EngineSlot> slots() const;
  /// Between two steps, what the prefix cache still has of a slot's conversation: whole pages of its beginning.
  /// \param fair_key whose conversation it must be; empty: anybody's
  /// \throws Error (kInvalidArgument) for a slot that there is not, and without prefix_cache; (kNotFound) where there
  /// is none of that key, or nothing is left of it; (kBusy) while the slot runs a sample; (kOutOfMemory); (kCancelled)
  /// when the engine ends; what failure() says.
  [[nodiscard]] SavedSequence save(int slot, const std::string& fair_key = {});
  /// Makes a slot's conversation what was saved, for requests that begin alike, and whose it is. Those that run keep
  /// their room. \returns tokens that the prefix cache has of it, whole pages.
  /// \throws as save(), and (kBusy) where its pages have no room beside those that run, (kInvalidArgument) where they
  /// never have.
  std::int64_t restore(int slot, std::shared_ptr<const SavedSequence> saved, const std::string& fair_key = {});
  /// Forgets a slot's conversation, and what the prefix cache has of it alone. \returns tokens that it held.
  /// \throws as save(), but for one that holds none.
  std::int64_t erase(int slot, const std::string& fair_key = {});
  [[nodiscard]] const EnginePlan& plan() const;
  [[nodiscard]] const Model& model() const;
  /// False for good when its thread died or hangs; every request that was open has got an error then.
  [[nodiscard]] bool healthy() const;
  /// Why it is not healthy; empty.
  [[nodiscard]] std::string failure() const;

 private:
  friend class EngineWithFaults;  // of tests
  struct Impl;
  struct Hooks;
  Engine(std::shared_ptr<const Model> model, const EngineOptions& options, Hooks hooks);
  std::shared_ptr<Impl> impl_;
};

}  // namespace metal_marlin
