// The stages around BPE, as tokenizer.json configures them: normalizers,
// pre-tokenizers and decoders.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/regex.h"
#include "base/unicode.h"
#include "io/json.h"

namespace metal_marlin {

// Rewrites text before it is split.
class Normalizer {
 public:
  // json: the `normalizer` field (null for none).
  static Normalizer parse(const Json& json, const std::string& where);
  [[nodiscard]] std::string apply(std::string_view text) const;
  [[nodiscard]] bool empty() const { return steps_.empty(); }

 private:
  struct Prepend {
    std::string text;
  };
  struct Replace {
    Regex pattern;
    std::string content;
  };
  struct Lowercase {};
  struct Strip {
    bool left;
    bool right;
  };
  using Step = std::variant<NormalForm, Prepend, Replace, Lowercase, Strip>;
  void add(const JsonObject& json);
  static std::string run(const Step& step, const std::string& text);
  std::vector<Step> steps_;
};

enum class SplitBehavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

// Cuts text into the pieces that BPE sees.
class PreTokenizer {
 public:
  using Emit = std::function<void(std::string_view)>;

  static PreTokenizer parse(const Json& json, const std::string& where);
  // first: whether `text` stands at the very beginning of the input.
  void apply(std::string_view text, bool first, const Emit& emit) const { run(0, text, first, emit); }
  // Whether pieces are spelled in the byte-level alphabet afterwards.
  [[nodiscard]] bool byte_level() const { return byte_level_; }

 private:
  struct Split {
    Regex pattern;
    SplitBehavior behavior;
    bool invert;
  };
  struct PrependSpace {};
  struct Metaspace {
    std::string replacement;
    bool always;
    bool never;
    bool split;
  };
  using Step = std::variant<Split, PrependSpace, Metaspace>;
  void add(const JsonObject& json);
  void run(std::size_t step, std::string_view text, bool first, const Emit& emit) const;
  void split(const Split& split, std::size_t step, std::string_view text, bool first, const Emit& emit) const;
  void metaspace(const Metaspace& metaspace, std::size_t step, std::string_view text, bool first,
                 const Emit& emit) const;
  std::vector<Step> steps_;
  bool byte_level_ = false;
};

// Turns the spelling of tokens back into bytes of text.
class Decoder {
 public:
  static Decoder parse(const Json& json, const std::string& where);
  // The bytes of one token; `first`: of the first token of a text.
  [[nodiscard]] std::string apply(std::string_view token, bool first) const;
  [[nodiscard]] bool byte_level() const { return byte_level_; }

 private:
  struct Replace {
    Regex pattern;
    std::string content;
  };
  struct ByteFallback {};
  struct Strip {
    std::string content;
    std::int64_t start;
  };
  using Step = std::variant<Replace, ByteFallback, Strip>;
  void add(const JsonObject& json);
  std::vector<Step> steps_;
  bool byte_level_ = false;
};

// GPT-2's printable alphabet for the 256 bytes.
std::string bytes_to_alphabet(std::string_view bytes);
// Nothing when a character is not of the alphabet.
bool alphabet_to_bytes(std::string_view text, std::string& bytes);

// GPT-2's split pattern, which ByteLevel uses.
extern const std::string_view kGpt2Pattern;

}  // namespace metal_marlin
