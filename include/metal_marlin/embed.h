/// \file
/// Texts to vectors, from a model's last hidden states. docs/embeddings.md says how they are pooled.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "metal_marlin/error.h"
#include "metal_marlin/model.h"

namespace metal_marlin {

/// Which hidden states of a text become its vector.
enum class Pooling : std::uint8_t {
  kMean,  ///< the mean of all tokens'
  kLast,  ///< the last token's
  kCls    ///< the first token's
};
/// "mean", "last" or "cls". \throws Error (kInvalidArgument) naming those that there are.
Pooling parse_pooling(std::string_view name);
std::string_view pooling_name(Pooling pooling);

/// What decides a query's relevance where a decoder answers yes or no.
struct RelevanceTokens {
  TokenId yes = -1;
  std::optional<TokenId> no;  ///< none: the logit of `yes` alone is looked at
};

/// What a model's files say of its vectors, in the layout of sentence-transformers (modules.json and what it names) or
/// GGUF's metadata.
struct EmbeddingConfig {
  Pooling pooling = Pooling::kMean;
  bool normalize = true;       ///< to length 1; where no file tells of pooling, vectors are
  bool include_prompt = true;  ///< false: a prompt's tokens are left out of the mean
  std::vector<std::pair<std::string, std::string>> prompts;  ///< that go before texts, by name
  std::string default_prompt;                                ///< its name; empty: none
  bool is_described = false;                                 ///< a file tells of pooling
  std::optional<RelevanceTokens> relevance;                  ///< it is a reranker that answers yes or no

  /// A prompt's text; of an empty name the default one's. \throws Error (kNotFound) naming those that there are.
  [[nodiscard]] const std::string& prompt(const std::string& name) const;
};

/// \param model as Model::load() takes it. \throws Error (kCorruptFile) naming file and field, (kUnsupported) for
/// modules and ways of pooling that are not there.
EmbeddingConfig read_embedding_config(const std::filesystem::path& model);

/// How vectors are made of hidden states.
struct EmbeddingForm {
  Pooling pooling = Pooling::kMean;
  bool normalize = true;
  /// The first so many elements, before they are normalized; 0: all.
  std::int64_t dimensions = 0;
};

struct EmbedOptions {
  EmbeddingForm form;
  std::string prompt;          ///< goes before each text
  bool include_prompt = true;  ///< as in EmbeddingConfig
  std::string adapter;         ///< of those that the model was loaded with, by name; empty: none
  std::int64_t context = 0;    ///< most tokens of a text; 0: the model's
  int step_tokens = 512;       ///< most tokens in a step, of several texts together
  std::function<bool(std::int64_t done, std::int64_t total)> progress;  ///< tokens; false: stop
};

/// A vector each. Texts are computed together, and a vector does not depend on the others on the cpu backend.
/// \throws Error (kInvalidArgument) for a text that is empty or longer than the context, with the figures, and for
/// dimensions and adapters that the model does not have; (kCancelled).
std::vector<std::vector<float>> embed(const std::shared_ptr<const Model>& model, std::span<const std::string> texts,
                                      const EmbedOptions& options = {});
/// The same of token ids, as they are: `prompt` is not looked at.
std::vector<std::vector<float>> embed_tokens(const std::shared_ptr<const Model>& model,
                                             std::span<const std::vector<TokenId>> inputs,
                                             const EmbedOptions& options = {});

struct EmbeddingRequest {
  std::vector<std::vector<TokenId>> inputs;
  EmbeddingForm form;
  /// So many tokens at the beginning of each are left out of the mean.
  std::size_t skipped = 0;
  std::string adapter;  ///< as in EmbedOptions
};

struct EmbeddingResult {
  std::vector<std::vector<float>> vectors;  ///< one an input
  std::optional<Error> error;               ///< then there are no vectors
};

struct EmbedderOptions {
  std::int64_t context = 0;  ///< most tokens of an input; 0: the model's
  int step_tokens = 512;     ///< most tokens in a step
  int queue = 256;           ///< most requests that are open; more are refused (kBusy)
  /// Whether somebody else's steps wait for the processor or the device: then a step is to take no longer than
  /// `step_delay`. Null: never.
  std::function<bool()> others_wait;
  std::chrono::milliseconds step_delay{50};
};

struct EmbedderStats {
  std::int64_t requests = 0;  ///< submitted so far
  int open = 0;
  std::int64_t tokens = 0;  ///< computed so far
  std::int64_t steps = 0;
};

/// Computes the requests of many threads, several in one step, until it is destroyed. All functions may be called from
/// any thread. Memory is taken while there is something to do.
class Embedder {
 public:
  using OnResult = std::function<void(EmbeddingResult result)>;
  explicit Embedder(std::shared_ptr<const Model> model, EmbedderOptions options = {});
  /// What is open ends with kCancelled.
  ~Embedder();
  Embedder(const Embedder&) = delete;
  Embedder& operator=(const Embedder&) = delete;

  /// `on_result` is called once, in the thread that runs the steps. \throws Error as embed() does; (kBusy).
  std::uint64_t submit(EmbeddingRequest request, OnResult on_result);
  /// It ends with kCancelled after the step that runs; nothing happens where it ended already.
  void cancel(std::uint64_t request);
  /// Takes no more requests, and returns when all have ended; after `deadline` it cancels those that are left.
  /// \returns whether none had to be.
  bool drain(std::chrono::milliseconds deadline);
  [[nodiscard]] EmbedderStats stats() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace metal_marlin
