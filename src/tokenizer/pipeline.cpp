#include "tokenizer/pipeline.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>

#include "metal_marlin/error.h"

namespace metal_marlin {

const std::string_view kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

[[noreturn]] void unsupported(const JsonObject& json, const std::string& what) {
  throw Error(ErrorCode::kUnsupported, fmt::format("{}: {} is not supported", json.where(), what));
}

// {"String": "x"} or {"Regex": "x"}.
Regex parse_pattern(const JsonObject& json) {
  const JsonObject pattern = json.object("pattern");
  if (pattern.has("String")) return Regex::literal(pattern.string("String"), pattern.where());
  return Regex(pattern.string("Regex"), pattern.where());
}

// Calls add for the object, or for each member of a Sequence.
template <typename Add>
void for_each_stage(const Json& json, const std::string& where, const char* members, const Add& add) {
  if (json.is_null()) return;
  const JsonObject object(json, where);
  if (object.string("type") != "Sequence") return add(object);
  const Json& list = object.at(members);
  if (!list.is_array()) object.wrong(members, "an array");
  for (std::size_t i = 0; i < list.size(); ++i) add(JsonObject(list[i], fmt::format("{}[{}]", where, i)));
}

struct Alphabet {
  std::array<char32_t, 256> characters{};
  std::array<std::int16_t, 0x144> bytes{};
  Alphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (char32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      const char32_t character = printable ? byte : next++;
      characters[byte] = character;
      bytes[character] = static_cast<std::int16_t>(byte);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

std::string strip(std::string_view text, bool left, bool right) {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool seen = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t start = at;
    if (is_white_space(next_character(text, at))) continue;
    if (!seen) begin = start;
    seen = true;
    end = at;
  }
  if (!seen) return left || right ? "" : std::string(text);
  if (!left) begin = 0;
  if (!right) end = text.size();
  return std::string(text.substr(begin, end - begin));
}

}  // namespace

std::string bytes_to_alphabet(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) append_utf8(alphabet().characters[static_cast<unsigned char>(c)], out);
  return out;
}

bool alphabet_to_bytes(std::string_view text, std::string& bytes) {
  bytes.clear();
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = next_character(text, at);
    if (c >= alphabet().bytes.size() || alphabet().bytes[c] < 0) return false;
    bytes += static_cast<char>(alphabet().bytes[c]);
  }
  return true;
}

Normalizer Normalizer::parse(const Json& json, const std::string& where) {
  Normalizer normalizer;
  for_each_stage(json, where, "normalizers", [&](const JsonObject& stage) { normalizer.add(stage); });
  return normalizer;
}

void Normalizer::add(const JsonObject& json) {
  const std::string type = json.string("type");
  if (type == "NFC") {
    steps_.emplace_back(NormalForm::kNfc);
  } else if (type == "NFD") {
    steps_.emplace_back(NormalForm::kNfd);
  } else if (type == "NFKC") {
    steps_.emplace_back(NormalForm::kNfkc);
  } else if (type == "NFKD") {
    steps_.emplace_back(NormalForm::kNfkd);
  } else if (type == "Prepend") {
    steps_.emplace_back(Prepend{json.string("prepend")});
  } else if (type == "Replace") {
    steps_.emplace_back(Replace{parse_pattern(json), json.string("content")});
  } else if (type == "Lowercase") {
    steps_.emplace_back(Lowercase{});
  } else if (type == "Strip") {
    steps_.emplace_back(Strip{json.boolean_or("strip_left", true), json.boolean_or("strip_right", true)});
  } else if (type == "Sequence") {
    for_each_stage(json.json(), json.where(), "normalizers", [&](const JsonObject& stage) { add(stage); });
  } else {
    unsupported(json, "normalizer type " + type);
  }
}

std::string Normalizer::run(const Step& step, const std::string& text) {
  if (const auto* const form = std::get_if<NormalForm>(&step)) return normalize(text, *form);
  if (const auto* const prepend = std::get_if<Prepend>(&step)) return text.empty() ? text : prepend->text + text;
  if (const auto* const replace = std::get_if<Replace>(&step))
    return replace->pattern.replace_all(text, replace->content);
  if (const auto* const cut = std::get_if<Strip>(&step)) return strip(text, cut->left, cut->right);
  return lowercase(text);
}

std::string Normalizer::apply(std::string_view text) const {
  std::string out(text);
  for (const Step& step : steps_) out = run(step, out);
  return out;
}

PreTokenizer PreTokenizer::parse(const Json& json, const std::string& where) {
  PreTokenizer pre_tokenizer;
  for_each_stage(json, where, "pretokenizers", [&](const JsonObject& stage) { pre_tokenizer.add(stage); });
  return pre_tokenizer;
}

void PreTokenizer::add(const JsonObject& json) {
  const std::string type = json.string("type");
  if (byte_level_) unsupported(json, type + " after ByteLevel");
  if (type == "ByteLevel") {
    if (json.boolean_or("add_prefix_space", true)) steps_.emplace_back(PrependSpace{});
    if (json.boolean_or("use_regex", true)) {
      steps_.emplace_back(Split{Regex(kGpt2Pattern, json.where()), SplitBehavior::kIsolated, false});
    }
    byte_level_ = true;
  } else if (type == "Split") {
    const std::string behavior = json.string("behavior");
    constexpr std::array<std::string_view, 5> kNames{"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext",
                                                     "Contiguous"};
    std::size_t index = 0;
    while (index < kNames.size() && kNames[index] != behavior) ++index;
    if (index == kNames.size()) json.wrong("behavior", fmt::format("one of {}", fmt::join(kNames, ", ")));
    steps_.emplace_back(
        Split{parse_pattern(json), static_cast<SplitBehavior>(index), json.boolean_or("invert", false)});
  } else if (type == "Digits") {
    const bool single = json.boolean_or("individual_digits", false);
    steps_.emplace_back(
        Split{Regex(R"(\p{N})", json.where()), single ? SplitBehavior::kIsolated : SplitBehavior::kContiguous, false});
  } else if (type == "Punctuation") {
    steps_.emplace_back(Split{Regex(R"([\p{P}!-/:-@\[-`{-~])", json.where()), SplitBehavior::kIsolated, false});
  } else if (type == "WhitespaceSplit") {
    steps_.emplace_back(Split{Regex(R"(\s+)", json.where()), SplitBehavior::kRemoved, false});
  } else if (type == "Whitespace") {
    steps_.emplace_back(Split{Regex(R"(\w+|[^\w\s]+)", json.where()), SplitBehavior::kRemoved, true});
  } else if (type == "Metaspace") {
    std::string scheme = json.string_or("prepend_scheme", "always");
    if (!json.boolean_or("add_prefix_space", true)) scheme = "never";
    steps_.emplace_back(
        Metaspace{json.string("replacement"), scheme == "always", scheme == "never", json.boolean_or("split", true)});
  } else if (type == "Sequence") {
    for_each_stage(json.json(), json.where(), "pretokenizers", [&](const JsonObject& stage) { add(stage); });
  } else {
    unsupported(json, "pre_tokenizer type " + type);
  }
}

void PreTokenizer::run(std::size_t step, std::string_view text, bool first, const Emit& emit) const {
  if (text.empty()) return;
  if (step == steps_.size()) return emit(text);
  if (const auto* const splitter = std::get_if<Split>(&steps_[step])) return split(*splitter, step, text, first, emit);
  if (const auto* const space = std::get_if<Metaspace>(&steps_[step]))
    return metaspace(*space, step, text, first, emit);
  if (text.front() == ' ') return run(step + 1, text, first, emit);
  run(step + 1, " " + std::string(text), first, emit);
}

void PreTokenizer::split(const Split& split, std::size_t step, std::string_view text, bool first,
                         const Emit& emit) const {
  // Parts alternate between matches and gaps; `held` is a part whose extent is
  // not decided yet.
  struct Part {
    std::size_t begin;
    std::size_t end;
    bool match;
  };
  Part held{0, 0, false};
  const auto flush = [&] {
    if (held.begin < held.end && !(held.match && split.behavior == SplitBehavior::kRemoved)) {
      run(step + 1, text.substr(held.begin, held.end - held.begin), first && held.begin == 0, emit);
    }
  };
  const auto add = [&](std::size_t begin, std::size_t end, bool match) {
    if (begin == end) return;
    match = match != split.invert;
    const bool joined =
        held.begin < held.end && ((split.behavior == SplitBehavior::kContiguous && held.match == match) ||
                                  (split.behavior == SplitBehavior::kMergedWithPrevious && match && !held.match) ||
                                  (split.behavior == SplitBehavior::kMergedWithNext && !match && held.match));
    if (joined) {
      held = {held.begin, end, split.behavior == SplitBehavior::kMergedWithNext ? false : match};
      return;
    }
    flush();
    held = {begin, end, match};
  };
  std::size_t done = 0;
  split.pattern.for_each_match(text, [&](std::size_t begin, std::size_t end) {
    add(done, begin, false);
    add(begin, end, true);
    done = end;
  });
  add(done, text.size(), false);
  flush();
}

void PreTokenizer::metaspace(const Metaspace& metaspace, std::size_t step, std::string_view text, bool first,
                             const Emit& emit) const {
  std::string replaced;
  for (const char c : text) {
    if (c == ' ') {
      replaced += metaspace.replacement;
    } else {
      replaced += c;
    }
  }
  const bool prepend = metaspace.always || (!metaspace.never && first);
  if (prepend && !replaced.starts_with(metaspace.replacement)) replaced = metaspace.replacement + replaced;
  if (!metaspace.split) return run(step + 1, replaced, first, emit);
  std::size_t begin = 0;
  while (begin < replaced.size()) {
    std::size_t end = replaced.find(metaspace.replacement, begin + 1);
    if (end == std::string::npos) end = replaced.size();
    run(step + 1, std::string_view(replaced).substr(begin, end - begin), first && begin == 0, emit);
    begin = end;
  }
}

Decoder Decoder::parse(const Json& json, const std::string& where) {
  Decoder decoder;
  for_each_stage(json, where, "decoders", [&](const JsonObject& stage) { decoder.add(stage); });
  return decoder;
}

void Decoder::add(const JsonObject& json) {
  const std::string type = json.string("type");
  if (type == "ByteLevel") {
    byte_level_ = true;
  } else if (type == "Replace") {
    steps_.emplace_back(Replace{parse_pattern(json), json.string("content")});
  } else if (type == "ByteFallback") {
    steps_.emplace_back(ByteFallback{});
  } else if (type == "Strip") {
    if (json.integer_or("stop", 0) != 0) unsupported(json, "a stop other than 0");
    steps_.emplace_back(Strip{json.string("content"), json.integer_or("start", 0)});
  } else if (type == "Metaspace") {
    const std::string replacement = json.string("replacement");
    steps_.emplace_back(Replace{Regex::literal(replacement, json.where()), " "});
    if (json.string_or("prepend_scheme", "always") != "never" && json.boolean_or("add_prefix_space", true)) {
      steps_.emplace_back(Strip{" ", 1});
    }
  } else if (type == "Sequence") {
    for_each_stage(json.json(), json.where(), "decoders", [&](const JsonObject& stage) { add(stage); });
  } else if (type != "Fuse") {
    unsupported(json, "decoder type " + type);
  }
}

std::string Decoder::apply(std::string_view token, bool first) const {
  if (byte_level_) {
    std::string bytes;
    return alphabet_to_bytes(token, bytes) ? bytes : std::string(token);
  }
  std::string text(token);
  for (const Step& step : steps_) {
    if (const auto* const replace = std::get_if<Replace>(&step)) {
      text = replace->pattern.replace_all(text, replace->content);
    } else if (const auto* const cut = std::get_if<Strip>(&step)) {
      for (std::int64_t i = 0; first && i < cut->start && text.starts_with(cut->content); ++i) {
        text.erase(0, cut->content.size());
      }
    } else if (text.size() == 6 && text.starts_with("<0x") && text.ends_with(">")) {
      const std::string digits = text.substr(3, 2);
      if (digits.find_first_not_of("0123456789ABCDEFabcdef") == std::string::npos) {
        text = std::string(1, static_cast<char>(std::stoi(digits, nullptr, 16)));
      }
    }
  }
  return text;
}

}  // namespace metal_marlin
