/// \file
/// Loading a model and running batches of sequences through it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "metal_marlin/sampler.h"
#include "metal_marlin/tokenizer.h"

namespace metal_marlin {

/// A LoRA adapter, as PEFT saves it: a folder. docs/lora.md tells what is taken.
struct AdapterOptions {
  std::string name;  ///< what it is called where sequences choose it
  std::filesystem::path path;
  double scale = 1;  ///< on the adapter's own
};

struct LoadOptions {
  /// Threads for loading and running; 0: one per usable core.
  int threads = 0;
  /// f32 activations and cache: the numbers of the model as it is stored.
  /// Otherwise activations take 8 bits per block of 32 where weights are
  /// integers (on the msl backends 16 bits), and the cache is f16.
  bool exact = false;
  /// What keys and values are kept in: "f16", "f32", "fp8", "int8", "int4" or "fp4"; empty: f16, or f32 where
  /// exact.
  std::string kv_cache;
  /// "cpu", or one that runs the Metal shaders: "msl" (the GPU that there is, else an error that says why
  /// there is none), "msl-metal" (an Apple GPU), "msl-cuda" (an NVIDIA GPU), "msl-host" (the host
  /// executor, for tests: slow), "msl-host-debug" (its detectors look at every access, slower still).
  std::string backend = "cpu";
  /// Of the cpu backend: one of the instruction sets that `metal-marlin status` lists; empty: best.
  std::string instruction_set;
  /// The layers that predict the next tokens too, where the model has some: SpeculationOptions::mtp goes by them.
  bool prediction = false;
  /// GGUF K-quants and IQ4_XS become f16 instead of int8 group 32.
  bool gguf_to_f16 = false;
  /// What sequences may have beside the model's weights, each its own.
  std::vector<AdapterOptions> adapters;
  /// Called with what the user should know.
  std::function<void(const std::string&)> notice;
  /// Called as weights are loaded; false: stop.
  std::function<bool(std::size_t done_bytes, std::size_t total_bytes)> progress;
};

struct ModelInfo {
  std::string architecture;
  std::string kind;  ///< "dense", "metal-marlin", "compressed-tensors", "GPTQ", "AWQ", "GGUF", "ONNX"
  std::int64_t vocab = 0;
  std::int64_t layers = 0;
  std::int64_t prediction_layers = 0;  ///< that predict the next tokens, and were loaded
  std::int64_t hidden = 0;
  std::int64_t max_positions = 0;
  std::size_t weight_bytes = 0;  ///< in memory
  std::vector<TokenId> end_tokens;
  std::vector<std::string> adapters;  ///< names, as in LoadOptions
  std::string backend;                ///< as in LoadOptions
  std::string device;                 ///< the instruction set of the cpu backend, or the GPU
  std::string kv_cache;               ///< as in LoadOptions
  int threads = 0;
  /// What the model's generation_config.json says of drawing; where it says nothing, the temperature is 1 and no token
  /// is left out.
  SamplerOptions sampling;
};

struct SavedSequence;

/// A loaded model; immutable, shared by its sessions, which may run in several threads side by side. The
/// processor's steps take turns: models of as many threads have one thread pool in common.
class Model {
 public:
  /// \param path a Hugging Face folder, a quantized folder, a GGUF or an ONNX file.
  /// \throws Error naming file and tensor or field; (kOutOfMemory) before
  /// loading, when the weights would not fit.
  static std::shared_ptr<const Model> load(const std::filesystem::path& path, const LoadOptions& options = {});
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  [[nodiscard]] const ModelInfo& info() const;
  /// \throws Error (kNotFound) when the model has none.
  [[nodiscard]] std::shared_ptr<const Tokenizer> tokenizer() const;

 private:
  friend class Session;
  friend class Engine;
  friend class DraftProposer;
  friend class MtpProposer;
  friend void write_sequence(const std::filesystem::path& path, const SavedSequence& saved, const Model& model);
  friend SavedSequence read_sequence(const std::filesystem::path& path, const Model& model);
  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Hidden states that a step computed: what the model's head multiplies.
struct HiddenRows {
  int input = 0;                  ///< index into the step's inputs
  std::size_t token = 0;          ///< index into that input's tokens: of the first row
  std::span<const float> values;  ///< [rows, hidden]; valid during the call
};
using HiddenSink = std::function<void(const HiddenRows&)>;

struct SessionOptions {
  int max_sequences = 1;
  /// Most tokens that all sequences together can hold; 0: the model's context length
  /// for each. Memory is taken as they come.
  std::int64_t cache_tokens = 0;
  int batch_tokens = 512;  ///< Most tokens in one pass; longer input is cut up.
  int batch_logits = 16;   ///< Most logits rows in one pass.
  /// What sequences held stays findable after they were closed, until the place is needed: Session::reuse().
  bool prefix_cache = false;
  /// A token's logits do not depend on how its sequence is cut into steps and on what else is in them, to the last
  /// bit. The cpu backend alone can (not for angles that depend on a sequence's length). It costs more where a step
  /// has one token and weights are multiplied as floats, and in the first step of prompts with latent attention.
  bool one_order = false;
  /// Rows hold the model's last hidden states, after its final norm, in the place of logits, which are not computed:
  /// LogitsRow::values is [hidden]. Nothing can be drawn.
  bool hidden_states = false;
  /// Takes the hidden states of each pass, of a model that was loaded with LoadOptions::prediction.
  HiddenSink on_hidden = {};
};

/// Of one sequence of one session; never used again after it was closed.
using SequenceId = std::int64_t;

/// For SequenceInput::logits_from.
constexpr std::size_t kLastLogits = SIZE_MAX;
constexpr std::size_t kNoLogits = SIZE_MAX - 1;

/// New tokens of one sequence.
struct SequenceInput {
  SequenceId sequence = 0;
  std::span<const TokenId> tokens;
  /// Logits are wanted from this token on. kLastLogits: of the last one only; kNoLogits: of none, for a prompt of
  /// which more is to come.
  std::size_t logits_from = kLastLogits;
  /// So many at the end are guesses that may be cut again: the prefix cache waits with them.
  std::size_t guessed = 0;
  /// Of a layer that predicts: the hidden states that its tokens follow, a row each.
  std::span<const float> hidden = {};
};

/// Logits that a step computed; valid during the call that delivers them.
struct LogitsRow {
  int input = 0;                  ///< index into the step's inputs
  std::size_t token = 0;          ///< index into that input's tokens
  std::span<const float> values;  ///< [vocab]
};
using LogitsSink = std::function<void(std::span<const LogitsRow>)>;

/// Inputs of a step whose logits are NaN or infinite.
struct NotFinite {
  std::vector<int> inputs;  ///< ascending in a pass; their sequences hold what they held before it
  std::string message;
};

/// A copy of what the cache holds of a sequence, in memory of the processor.
struct SavedSequence {
  std::int64_t length = 0;
  std::vector<TokenId> tokens;  ///< with a prefix cache
  std::string adapter;          ///< that it was computed with
  std::unique_ptr<std::byte[]> bytes;
  std::size_t size = 0;  ///< of `bytes`
};

/// What a session's cache holds, in pages, and what became of it.
struct CacheStats {
  int page_tokens = 0;
  std::int64_t limit = 0;          ///< pages that there may be
  std::int64_t pages = 0;          ///< that there is memory for
  std::int64_t held = 0;           ///< by open sequences
  std::int64_t shared = 0;         ///< of these, by more than one
  std::int64_t kept = 0;           ///< by none, findable
  std::int64_t evicted = 0;        ///< findable ones whose place was needed, so far
  std::int64_t copied = 0;         ///< before one of several sequences wrote, so far
  std::int64_t asked_tokens = 0;   ///< of reuse(), so far
  std::int64_t reused_tokens = 0;  ///< that it found, so far
};

/// Sequences in progress with their key-value cache: they are opened, continued in batches of any of them, and closed.
/// Not for concurrent use, but for both kinds of cancel().
class Session {
 public:
  Session(std::shared_ptr<const Model> model, const SessionOptions& options = {});
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// \param adapter that all its tokens are computed with, by name; empty: none
  /// \throws Error (kInvalidArgument) when max_sequences are open, (kNotFound) naming the adapters that there are.
  SequenceId open(const std::string& adapter = {});
  /// Another sequence that holds the same tokens; both share the memory of what they have in common.
  /// \throws as open().
  SequenceId fork(SequenceId sequence);
  void close(SequenceId sequence);
  /// Tokens a sequence holds.
  [[nodiscard]] std::int64_t length(SequenceId sequence) const;
  /// Forgets all tokens from `length` on.
  void truncate(SequenceId sequence, std::int64_t length);
  /// Gives a sequence that holds nothing the longest beginning of `tokens` that can be found in the cache, computed
  /// with the same adapter: whole pages, and not all of them, so that a step for the others gives logits. What comes
  /// after is computed as if the beginning had been, but for the rounding of steps that are cut in another way.
  /// \returns tokens that it now holds. \throws Error (kInvalidArgument) without prefix_cache.
  std::int64_t reuse(SequenceId sequence, std::span<const TokenId> tokens);
  /// As reuse(), for what no step follows: all whole pages, and CacheStats counts nothing.
  std::int64_t find(SequenceId sequence, std::span<const TokenId> tokens);
  /// As close(), and full pages that only this sequence holds are found no more, but for those of the first `kept`
  /// tokens.
  void forget(SequenceId sequence, std::int64_t kept);

  /// Copies what the cache holds of a sequence, which stays as it is. \throws Error (kOutOfMemory).
  [[nodiscard]] SavedSequence save(SequenceId sequence) const;
  /// Bytes that save() takes.
  [[nodiscard]] std::size_t saved_bytes(SequenceId sequence) const;
  /// Gives a sequence what another one of this session held, which goes on in it to the last bit. It may hold a
  /// beginning of the same tokens: its full pages stay, and their copies are not needed.
  /// \throws Error (kInvalidArgument) for other tokens or a full cache, (kOutOfMemory) when the cache cannot grow,
  /// before anything is changed.
  void restore(SequenceId sequence, const SavedSequence& saved);

  /// Appends tokens to sequences, each any number of them: prefill and decode
  /// are the same call. Without a sink no logits are computed. \throws Error (kInvalidArgument) for an id
  /// outside the vocabulary or a full cache, (kOutOfMemory) when the cache cannot grow, before anything is changed;
  /// (kCancelled).
  void step(std::span<const SequenceInput> inputs, const LogitsSink& sink);
  /// As step(), and draws the token that follows each input: on the device where there is one, so that no logits are
  /// copied from it (but for a sampler that must see them).
  /// \param samplers one an input, each its own; null: nothing is drawn
  /// \param next takes the tokens; -1 where nothing was drawn: no sampler, no tokens, a cancelled sequence
  /// \param sink takes the logits of inputs without a sampler, from logits_from on
  /// \param failed takes the inputs whose logits are not finite, and the others go on; without it they are an error of
  /// all
  void sample(std::span<const SequenceInput> inputs, std::span<Sampler* const> samplers, std::span<TokenId> next,
              const LogitsSink& sink = {}, NotFinite* failed = nullptr);
  /// Tokens that each expert got so far, [layer][expert]: empty lists for layers
  /// without experts, nothing at all for models or backends that do not count them.
  [[nodiscard]] std::vector<std::vector<std::int64_t>> expert_counts() const;
  [[nodiscard]] CacheStats cache_stats() const;
  /// Pages that the next step can take: free ones, those kept for their content, and those that memory may be asked
  /// for.
  [[nodiscard]] std::int64_t available_pages() const;
  /// Pages that a step with so many more tokens of this sequence takes.
  [[nodiscard]] std::int64_t pages_needed(SequenceId sequence, std::int64_t tokens) const;
  /// Makes a step that runs in another thread stop between passes. The step's
  /// sequences then hold the tokens of the passes that were finished.
  void cancel();
  /// Cancels one sequence, from any thread: steps pass it over from the next pass on, and the others go on. It
  /// remains so, and open, until it is closed; one that is closed already is left in peace.
  void cancel(SequenceId sequence);
  /// Whether it was cancelled.
  [[nodiscard]] bool is_cancelled(SequenceId sequence) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace metal_marlin
