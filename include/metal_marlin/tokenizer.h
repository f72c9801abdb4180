/// \file
/// Text to token ids and back.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace metal_marlin {

using TokenId = std::int32_t;

struct EncodeOptions {
  /// Add what the model's template adds around a single text (such as BOS).
  bool add_special = true;
  /// Recognise special tokens written out in the text. Other added tokens
  /// always are.
  bool parse_special = true;
};

/// A tokenizer as `tokenizer.json` describes it: BPE, Unigram, WordPiece or
/// WordLevel with the stages around them. The ids and texts are those of the
/// `tokenizers` library.
/// Immutable and usable from many threads at once.
class Tokenizer {
 public:
  using Notice = std::function<void(const std::string&)>;  ///< told of what is in a file and not used
  /// \param json text of a tokenizer.json; \param where its name in errors.
  /// \param config text of a tokenizer_config.json, whose tokens count too.
  /// \param notice is told of fields that are not used.
  /// \throws Error (kCorruptFile, kUnsupported) naming the field.
  static std::shared_ptr<const Tokenizer> from_json(std::string_view json, const std::string& where,
                                                    std::string_view config = {}, const Notice& notice = {});
  /// From a model folder (its tokenizer.json, and tokenizer_config.json,
  /// special_tokens_map.json and added_tokens.json where they are there) or a
  /// GGUF file (its metadata).
  /// \throws Error (kNotFound) when the model has no tokenizer.
  static std::shared_ptr<const Tokenizer> load(const std::filesystem::path& model, const Notice& notice = {});

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  /// Invalid UTF-8 is read as U+FFFD, one for each maximal invalid part.
  [[nodiscard]] std::vector<TokenId> encode(std::string_view text, const EncodeOptions& options = {}) const;
  /// The text of ids; unknown ids are skipped.
  [[nodiscard]] std::string decode(std::span<const TokenId> ids, bool skip_special = true) const;
  [[nodiscard]] std::optional<TokenId> find(std::string_view token) const;
  [[nodiscard]] bool is_special(TokenId id) const;
  /// One more than the largest id.
  [[nodiscard]] std::int64_t vocab_size() const;
  /// By id, what each token adds to a text that has begun: not always whole characters, nothing for special tokens.
  /// \throws Error (kUnsupported) naming the stage of the decoder that makes it depend on other tokens.
  [[nodiscard]] std::vector<std::string> token_bytes() const;
  /// The same one, but for these special tokens: they are part of texts, as others are.
  [[nodiscard]] std::shared_ptr<const Tokenizer> showing(std::span<const std::string> special) const;

 private:
  friend class Detokenizer;
  struct Impl;
  Tokenizer(std::shared_ptr<const Impl> impl, std::set<std::string, std::less<>> shown);
  [[nodiscard]] bool is_hidden(const std::string& spelling) const;
  std::shared_ptr<const Impl> impl_;
  std::set<std::string, std::less<>> shown_;
};

/// Turns ids into text as they arrive; never emits part of a UTF-8 character.
/// All that it emits is what `decode` gives for all ids.
class Detokenizer {
 public:
  /// \param before ids that stand before; their text is not emitted.
  explicit Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special = true,
                       std::span<const TokenId> before = {});
  ~Detokenizer();
  Detokenizer(Detokenizer&&) noexcept;
  Detokenizer& operator=(Detokenizer&&) noexcept;
  /// The text that `id` completes; may be empty.
  std::string push(TokenId id);
  /// What is left at the end; an unfinished character becomes U+FFFD.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace metal_marlin
