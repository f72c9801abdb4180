// Rewrites text before it is split, as the `normalizer` of a tokenizer.json says.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/regex.h"
#include "base/unicode.h"
#include "io/json.h"
#include "tokenizer/precompiled.h"

namespace metal_marlin {

// Text on its way to the model, which knows what of it stands at the very beginning of the input.
struct NormalizedText {
  std::string bytes;
  std::size_t head = 0;  // leading bytes that come from the input's first character

  // Characters with what each does: 0 replaces one, 1 is new, -n replaces one and removes n more.
  using Changes = std::vector<std::pair<char32_t, int>>;
  // Replaces all characters; `removed` of them go first.
  void transform(const Changes& changes, std::size_t removed);
  // Appends what comes from bytes at the beginning of the input, or from others.
  void append(std::string_view text, bool from_head);
};

class Normalizer {
 public:
  // json: the `normalizer` field (null for none).
  static Normalizer parse(const Json& json, const std::string& where);
  void apply(NormalizedText& text) const;
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
  struct StripAccents {};
  struct Nmt {};
  struct ByteLevel {};
  struct Bert {
    bool clean_text;
    bool chinese;
    bool strip_accents;
    bool lowercase;
  };
  using Step = std::variant<NormalForm, Prepend, Replace, Lowercase, Strip, StripAccents, Nmt, ByteLevel, Bert,
                            std::shared_ptr<const PrecompiledMap>>;
  static Step make(const JsonObject& json);
  static void run(NormalForm form, NormalizedText& text);
  static void run(const Prepend& step, NormalizedText& text);
  static void run(const Replace& step, NormalizedText& text);
  static void run(Lowercase step, NormalizedText& text);
  static void run(const Strip& step, NormalizedText& text);
  static void run(StripAccents step, NormalizedText& text);
  static void run(Nmt step, NormalizedText& text);
  static void run(ByteLevel step, NormalizedText& text);
  static void run(const Bert& step, NormalizedText& text);
  static void run(const std::shared_ptr<const PrecompiledMap>& map, NormalizedText& text);
  std::vector<Step> steps_;
};

}  // namespace metal_marlin
