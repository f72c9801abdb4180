// Cuts text into the pieces that the model sees, as the `pre_tokenizer` of a tokenizer.json says.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/regex.h"
#include "io/json.h"

namespace metal_marlin {

enum class SplitBehavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

class PreTokenizer {
 public:
  using Emit = std::function<void(std::string_view)>;

  static PreTokenizer parse(const Json& json, const std::string& where);
  // head: how many bytes of `text` come from the input's first character.
  void apply(std::string_view text, std::size_t head, const Emit& emit) const { run(0, text, head, emit); }

 private:
  struct Part {
    std::size_t begin;
    std::size_t end;
    bool match;
  };
  struct PatternSplit {
    Regex pattern;
    SplitBehavior behavior;
    bool invert;
  };
  // Each character that `matches` is a match of its own.
  struct CharacterSplit {
    std::function<bool(char32_t)> matches;
    SplitBehavior behavior;
  };
  struct Words {};      // runs of word characters, and of others that are not white space
  struct ByteLevel {};  // bytes become characters
  struct PrependSpace {};
  struct Metaspace {
    std::string replacement;
    bool always;
    bool never;
    bool split;
  };
  struct FixedLength {
    std::size_t characters;
  };
  using Step = std::variant<PatternSplit, CharacterSplit, Words, ByteLevel, PrependSpace, Metaspace, FixedLength>;

  void add(const JsonObject& json);
  void add_split(const JsonObject& json);
  void run(std::size_t step, std::string_view text, std::size_t head, const Emit& emit) const;
  void emit_parts(const std::vector<Part>& parts, SplitBehavior behavior, std::size_t step, std::string_view text,
                  std::size_t head, const Emit& emit) const;
  void metaspace(const Metaspace& metaspace, std::size_t step, std::string_view text, std::size_t head,
                 const Emit& emit) const;
  static std::vector<Part> parts_of(const PatternSplit& split, std::string_view text);
  static std::vector<Part> parts_of(const CharacterSplit& split, std::string_view text);
  static std::vector<Part> parts_of(const FixedLength& fixed, std::string_view text);
  static std::vector<Part> parts_of(Words words, std::string_view text);
  std::vector<Step> steps_;
};

}  // namespace metal_marlin
