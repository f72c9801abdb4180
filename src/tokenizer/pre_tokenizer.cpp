#include "tokenizer/pre_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "base/unicode.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/stages.h"

namespace metal_marlin {
namespace {

SplitBehavior parse_behavior(const JsonObject& json) {
  constexpr std::array<std::string_view, 5> kNames{"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext",
                                                   "Contiguous"};
  return static_cast<SplitBehavior>(parse_choice(json, "behavior", kNames));
}

const std::vector<StageType>& pre_tokenizer_types() {
  static const std::vector<StageType> all{
      {"ByteLevel", byte_level_fields()},
      {"Split", {{"pattern", FieldKind::kAny}, {"behavior", FieldKind::kText}, {"invert", FieldKind::kFlag}}},
      {"Digits", {{"individual_digits", FieldKind::kFlag}}},
      {"Punctuation", {{"behavior", FieldKind::kText, FieldNeed::kOptional}}},
      {"WhitespaceSplit", {}},
      {"Whitespace", {}},
      {"BertPreTokenizer", {}},
      {"CharDelimiterSplit", {{"delimiter", FieldKind::kCharacter}}},
      {"FixedLength", {{"length", FieldKind::kCount, FieldNeed::kOptional}}},
      {"Metaspace", metaspace_fields()}};
  return all;
}

}  // namespace

PreTokenizer PreTokenizer::parse(const Json& json, const std::string& where) {
  PreTokenizer pre_tokenizer;
  for_each_stage(json, where, "pre_tokenizer", "pretokenizers", pre_tokenizer_types(),
                 [&](const JsonObject& stage) { pre_tokenizer.add(stage); });
  return pre_tokenizer;
}

void PreTokenizer::add_split(const JsonObject& json) {
  steps_.emplace_back(PatternSplit{parse_pattern(json), parse_behavior(json), json.boolean("invert")});
}

void PreTokenizer::add(const JsonObject& json) {
  const std::string type = json.string("type");
  if (type == "ByteLevel") {
    if (json.boolean("add_prefix_space")) steps_.emplace_back(PrependSpace{});
    if (json.boolean_or("use_regex", true)) {
      steps_.emplace_back(PatternSplit{Regex(kGpt2Pattern, json.where()), SplitBehavior::kIsolated, false});
    }
    steps_.emplace_back(ByteLevel{});
  } else if (type == "Split") {
    add_split(json);
  } else if (type == "Digits") {
    const bool single = json.boolean("individual_digits");
    steps_.emplace_back(CharacterSplit{is_numeric, single ? SplitBehavior::kIsolated : SplitBehavior::kContiguous});
  } else if (type == "Punctuation") {
    steps_.emplace_back(
        CharacterSplit{is_punctuation, json.has("behavior") ? parse_behavior(json) : SplitBehavior::kIsolated});
  } else if (type == "WhitespaceSplit") {
    steps_.emplace_back(CharacterSplit{is_white_space, SplitBehavior::kRemoved});
  } else if (type == "BertPreTokenizer") {
    steps_.emplace_back(CharacterSplit{is_white_space, SplitBehavior::kRemoved});
    steps_.emplace_back(CharacterSplit{is_punctuation, SplitBehavior::kIsolated});
  } else if (type == "CharDelimiterSplit") {
    const std::string delimiter = json.string("delimiter");
    std::size_t at = 0;
    const char32_t c = next_character(delimiter, at);
    steps_.emplace_back(CharacterSplit{[c](char32_t other) { return other == c; }, SplitBehavior::kRemoved});
  } else if (type == "Whitespace") {
    steps_.emplace_back(Words{});
  } else if (type == "FixedLength") {
    const std::size_t length = json.has("length") ? json.at("length").get<std::size_t>() : 5;
    if (length < 1) json.wrong("length", "a positive number");  // the library divides by it
    steps_.emplace_back(FixedLength{length});
  } else {
    const PrependScheme scheme = parse_prepend_scheme(json);
    steps_.emplace_back(Metaspace{json.string("replacement"), scheme == PrependScheme::kAlways,
                                  scheme == PrependScheme::kNever, json.boolean_or("split", true)});
  }
}

void PreTokenizer::run(std::size_t step, std::string_view text, std::size_t head, const Emit& emit) const {
  if (text.empty()) return;
  if (step == steps_.size()) return emit(text);
  std::visit(
      [&](const auto& concrete) {
        using T = std::decay_t<decltype(concrete)>;
        if constexpr (std::is_same_v<T, ByteLevel>) {
          run(step + 1, bytes_to_alphabet(text), bytes_to_alphabet(text.substr(0, head)).size(), emit);
        } else if constexpr (std::is_same_v<T, PrependSpace>) {
          if (text.front() == ' ') return run(step + 1, text, head, emit);
          run(step + 1, std::string(1, ' ').append(text), head > 0 ? head + 1 : 0, emit);
        } else if constexpr (std::is_same_v<T, Metaspace>) {
          metaspace(concrete, step, text, head, emit);
        } else {
          SplitBehavior behavior = SplitBehavior::kIsolated;
          if constexpr (std::is_same_v<T, PatternSplit> || std::is_same_v<T, CharacterSplit>) {
            behavior = concrete.behavior;
          } else if constexpr (std::is_same_v<T, Words>) {
            behavior = SplitBehavior::kRemoved;
          }
          emit_parts(parts_of(concrete, text), behavior, step, text, head, emit);
        }
      },
      steps_[step]);
}

std::vector<PreTokenizer::Part> PreTokenizer::parts_of(const PatternSplit& split, std::string_view text) {
  std::vector<Part> parts;
  std::size_t done = 0;
  for (const Regex::Match& match : split.pattern.matches(text)) {
    if (done != match.begin) parts.push_back({done, match.begin, split.invert});
    parts.push_back({match.begin, match.end, !split.invert});
    done = match.end;
  }
  if (done != text.size()) parts.push_back({done, text.size(), split.invert});
  return parts;
}

std::vector<PreTokenizer::Part> PreTokenizer::parts_of(const CharacterSplit& split, std::string_view text) {
  std::vector<Part> parts;
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    if (!split.matches(next_character(text, at))) continue;
    if (done < begin) parts.push_back({done, begin, false});
    parts.push_back({begin, at, true});
    done = at;
  }
  if (done < text.size()) parts.push_back({done, text.size(), false});
  return parts;
}

std::vector<PreTokenizer::Part> PreTokenizer::parts_of(const FixedLength& fixed, std::string_view text) {
  std::vector<Part> parts;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    for (std::size_t i = 0; i < fixed.characters && at < text.size(); ++i) next_character(text, at);
    parts.push_back({begin, at, false});
  }
  return parts;
}

// What is not a run of one kind counts as a match, to be removed.
std::vector<PreTokenizer::Part> PreTokenizer::parts_of(Words /*words*/, std::string_view text) {
  enum class Kind { kSpace, kWord, kOther };
  std::vector<Part> parts;
  Kind last = Kind::kSpace;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const char32_t c = next_character(text, at);
    const Kind kind = is_word_character(c) ? Kind::kWord : is_white_space(c) ? Kind::kSpace : Kind::kOther;
    if (!parts.empty() && kind == last) {
      parts.back().end = at;
    } else {
      parts.push_back({begin, at, kind == Kind::kSpace});
    }
    last = kind;
  }
  return parts;
}

void PreTokenizer::emit_parts(const std::vector<Part>& parts, SplitBehavior behavior, std::size_t step,
                              std::string_view text, std::size_t head, const Emit& emit) const {
  const auto flush = [&](std::size_t begin, std::size_t end) {
    if (begin < end) run(step + 1, text.substr(begin, end - begin), head - std::min(head, begin), emit);
  };
  if (behavior == SplitBehavior::kIsolated || behavior == SplitBehavior::kRemoved) {
    for (const Part& part : parts) {
      if (!(part.match && behavior == SplitBehavior::kRemoved)) flush(part.begin, part.end);
    }
    return;
  }
  // A part joins the one before it, or is joined by the one after it.
  std::size_t begin = parts.empty() ? 0 : parts.front().begin;
  for (std::size_t i = 1; i < parts.size(); ++i) {
    const bool left = parts[i - 1].match;
    const bool right = parts[i].match;
    const bool joined = behavior == SplitBehavior::kContiguous           ? left == right
                        : behavior == SplitBehavior::kMergedWithPrevious ? right && !left
                                                                         : left && !right;
    if (joined) continue;
    flush(begin, parts[i].begin);
    begin = parts[i].begin;
  }
  if (!parts.empty()) flush(begin, parts.back().end);
}

void PreTokenizer::metaspace(const Metaspace& metaspace, std::size_t step, std::string_view text, std::size_t head,
                             const Emit& emit) const {
  std::string replaced;
  std::size_t replaced_head = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == ' ') {
      replaced += metaspace.replacement;
    } else {
      replaced += text[i];
    }
    if (i < head) replaced_head = replaced.size();
  }
  const bool prepend = metaspace.always || (!metaspace.never && head > 0);
  if (prepend && !replaced.starts_with(metaspace.replacement)) {
    replaced.insert(0, metaspace.replacement);
    if (replaced_head > 0) replaced_head += metaspace.replacement.size();
  }
  if (!metaspace.split) return run(step + 1, replaced, replaced_head, emit);
  std::size_t begin = 0;
  while (begin < replaced.size()) {
    std::size_t end = replaced.find(metaspace.replacement, begin + 1);
    if (end == std::string::npos) end = replaced.size();
    run(step + 1, std::string_view(replaced).substr(begin, end - begin), replaced_head - std::min(replaced_head, begin),
        emit);
    begin = end;
  }
}

}  // namespace metal_marlin
