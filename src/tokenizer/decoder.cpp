#include "tokenizer/decoder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/unicode.h"
#include "metal_marlin/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/stages.h"

namespace metal_marlin {
namespace {

using Stream = Decoder::Stream;
constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

const std::vector<StageType>& decoder_types() {
  static const std::vector<StageType> all{
      {"ByteLevel", byte_level_fields()},
      {"ByteFallback", {}},
      {"Fuse", {}},
      {"Replace", {{"pattern", FieldKind::kAny}, {"content", FieldKind::kText}}},
      {"Strip", {{"content", FieldKind::kCharacter}, {"start", FieldKind::kCount}, {"stop", FieldKind::kCount}}},
      {"Metaspace", metaspace_fields()},
      {"WordPiece", {{"prefix", FieldKind::kText}, {"cleanup", FieldKind::kFlag}}},
      {"BPEDecoder", {{"suffix", FieldKind::kText}}},
      {"CTC",
       {{"pad_token", FieldKind::kText}, {"word_delimiter_token", FieldKind::kText}, {"cleanup", FieldKind::kFlag}}}};
  return all;
}

// As Rust replaces: an empty text is found before each character and at the end.
std::string replace_literal(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  std::size_t done = 0;
  if (from.empty()) {
    for (std::size_t at = 0; at < text.size(); done = at) {
      next_character(text, at);
      out.append(to).append(text, done, at - done);
    }
    return out.append(to);
  }
  for (std::size_t at = text.find(from); at != std::string_view::npos; at = text.find(from, done)) {
    out.append(text, done, at - done).append(to);
    done = at + from.size();
  }
  return out.append(text, done);
}

// English punctuation without the spaces that splitting put before it, as one stage or as the whole text has it.
std::string clean_up(std::string text, bool whole = false) {
  constexpr std::string_view kStageOnly = " do not";
  constexpr std::array<std::pair<std::string_view, std::string_view>, 11> kRules{{{" .", "."},
                                                                                  {" ?", "?"},
                                                                                  {" !", "!"},
                                                                                  {" ,", ","},
                                                                                  {" ' ", "'"},
                                                                                  {" n't", "n't"},
                                                                                  {" 'm", "'m"},
                                                                                  {kStageOnly, " don't"},
                                                                                  {" 's", "'s"},
                                                                                  {" 've", "'ve"},
                                                                                  {" 're", "'re"}}};
  for (const auto& [from, to] : kRules) {
    if (!whole || from != kStageOnly) text = replace_literal(text, from, to);
  }
  return text;
}

// The byte that <0x41> stands for. Rust's parser of numbers, which the reference reads it with, takes a sign.
std::optional<char> byte_of(std::string_view token) {
  const auto digit = [&](std::size_t at) {
    const char c = token[at];
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
  };
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  const int high = token[3] == '+' ? 0 : digit(3);
  if (high < 0 || digit(4) < 0) return std::nullopt;
  return static_cast<char>(high * 16 + digit(4));
}

std::string metaspace_text(const Decoder::Metaspace& step, const std::string& token, bool first) {
  return replace_literal(token, step.replacement, first && step.drop_first ? "" : " ");
}

std::string word_piece_text(const Decoder::WordPiece& step, std::string token, bool first) {
  if (!first && token.starts_with(step.prefix)) {
    token.erase(0, step.prefix.size());
  } else if (!first) {
    token.insert(token.begin(), ' ');
  }
  return step.cleanup ? clean_up(std::move(token)) : token;
}

class Sink final : public Stream {
 public:
  explicit Sink(std::string& out) : out_(out) {}
  void push(std::string token) override { out_ += token; }
  void finish() override {}

 private:
  std::string& out_;
};

class Stage : public Stream {
 public:
  explicit Stage(std::unique_ptr<Stream> next) : next_(std::move(next)) {}
  void finish() override { next_->finish(); }

 protected:
  Stream& next() { return *next_; }

 private:
  std::unique_ptr<Stream> next_;
};

// A stage that sees one token at a time and knows which is the first.
template <typename Rewrite>
class Each final : public Stage {
 public:
  Each(Rewrite rewrite, std::unique_ptr<Stream> next) : Stage(std::move(next)), rewrite_(std::move(rewrite)) {}
  void push(std::string token) override { next().push(rewrite_(std::move(token), std::exchange(first_, false))); }

 private:
  Rewrite rewrite_;
  bool first_ = true;
};

template <typename Rewrite>
std::unique_ptr<Stream> each(Rewrite rewrite, std::unique_ptr<Stream> next) {
  return std::make_unique<Each<Rewrite>>(std::move(rewrite), std::move(next));
}

// All tokens as one; `whole`: the stages behind must see it whole.
class FuseStage final : public Stage {
 public:
  FuseStage(bool whole, std::unique_ptr<Stream> next) : Stage(std::move(next)), whole_(whole) {}
  void push(std::string token) override {
    if (whole_) {
      held_ += token;
    } else {
      next().push(std::move(token));
    }
  }
  void finish() override {
    if (whole_) next().push(std::move(held_));
    Stage::finish();
  }

 private:
  bool whole_;
  std::string held_;
};

class ByteLevelStage final : public Stage {
 public:
  using Stage::Stage;
  void push(std::string token) override {
    std::string bytes;
    held_ += alphabet_to_bytes(token, bytes) ? bytes : token;
    const std::size_t complete = complete_prefix(held_);
    next().push(sanitize_utf8(std::string_view(held_).substr(0, complete)));
    held_.erase(0, complete);
  }
  void finish() override {
    next().push(sanitize_utf8(held_));
    Stage::finish();
  }

 private:
  std::string held_;
};

// A run of byte tokens is text as a whole, or one U+FFFD a byte.
class ByteFallbackStage final : public Stage {
 public:
  using Stage::Stage;
  void push(std::string token) override {
    if (const std::optional<char> byte = byte_of(token)) {
      run_ += *byte;
      return;
    }
    flush();
    next().push(std::move(token));
  }
  void finish() override {
    flush();
    Stage::finish();
  }

 private:
  void flush() {
    if (run_.empty()) return;
    if (is_valid_utf8(run_)) {
      next().push(run_);
    } else {
      for (std::size_t i = 0; i < run_.size(); ++i) next().push(std::string(kReplacementCharacter));
    }
    run_.clear();
  }
  std::string run_;
};

// Cuts the ends of a text that arrives in parts.
class StripWhole final : public Stage {
 public:
  StripWhole(const Decoder::Strip& strip, std::unique_ptr<Stream> next)
      : Stage(std::move(next)), strip_(strip), left_(strip.start) {}
  void push(std::string token) override {
    held_ += token;
    while (left_ > 0 && held_.starts_with(strip_.content)) {
      held_.erase(0, strip_.content.size());
      --left_;
    }
    if (held_.empty()) return;
    left_ = 0;
    // What may be the end stays.
    std::size_t end = held_.size();
    for (std::size_t i = 0; i < strip_.stop && ends(end); ++i) end -= strip_.content.size();
    next().push(held_.substr(0, end));
    held_.erase(0, end);
  }
  void finish() override { Stage::finish(); }

 private:
  [[nodiscard]] bool ends(std::size_t end) const {
    return std::string_view(held_).substr(0, end).ends_with(strip_.content);
  }
  const Decoder::Strip& strip_;
  std::size_t left_;
  std::string held_;
};

std::string strip_token(const Decoder::Strip& strip, std::string_view token) {
  for (std::size_t i = 0; i < strip.start && token.starts_with(strip.content); ++i) {
    token.remove_prefix(strip.content.size());
  }
  for (std::size_t i = 0; i < strip.stop && token.ends_with(strip.content); ++i) {
    token.remove_suffix(strip.content.size());
  }
  return std::string(token);
}

// The last token's suffix is dropped, those of the others become spaces.
class BpeStage final : public Stage {
 public:
  BpeStage(const Decoder::Bpe& bpe, std::unique_ptr<Stream> next) : Stage(std::move(next)), bpe_(bpe) {}
  void push(std::string token) override {
    if (any_) next().push(replace_literal(held_, bpe_.suffix, " "));
    held_ = std::move(token);
    any_ = true;
  }
  void finish() override {
    if (any_) next().push(replace_literal(held_, bpe_.suffix, ""));
    Stage::finish();
  }

 private:
  const Decoder::Bpe& bpe_;
  bool any_ = false;
  std::string held_;
};

class CtcStage final : public Stage {
 public:
  CtcStage(const Decoder::Ctc& ctc, std::unique_ptr<Stream> next) : Stage(std::move(next)), ctc_(ctc) {}
  void push(std::string token) override {
    if (any_ && token == last_) return;
    last_ = token;
    any_ = true;
    token = replace_literal(token, ctc_.pad, "");
    if (ctc_.cleanup) token = replace_literal(clean_up(std::move(token)), ctc_.delimiter, " ");
    if (!token.empty()) next().push(std::move(token));
  }

 private:
  const Decoder::Ctc& ctc_;
  bool any_ = false;
  std::string last_;
};

// A text without spaces before punctuation, by parts that the rules see alone: no rule reaches over a space behind a
// character other than a space, n or an apostrophe.
class CleanUpStage final : public Stage {
 public:
  using Stage::Stage;
  void push(std::string token) override {
    held_ += token;
    std::size_t cut = held_.rfind(' ');
    while (cut != std::string::npos && cut > 0 &&
           std::string_view(" n'").find(held_[cut - 1]) != std::string_view::npos)
      cut = held_.rfind(' ', cut - 1);
    if (cut == std::string::npos || cut == 0) return;
    next().push(clean_up(held_.substr(0, cut), true));
    held_.erase(0, cut);
  }
  void finish() override {
    next().push(clean_up(std::move(held_), true));
    Stage::finish();
  }

 private:
  std::string held_;
};

}  // namespace

Decoder Decoder::parse(const Json& json, const std::string& where) {
  Decoder decoder;
  for_each_stage(json, where, "decoder", "decoders", decoder_types(),
                 [&](const JsonObject& stage) { decoder.steps_.push_back(make(stage)); });
  if (json.is_null()) decoder.steps_.emplace_back(Spaces{});
  return decoder;
}

Decoder::Step Decoder::make(const JsonObject& json) {
  const std::string type = json.string("type");
  const auto count = [&](const char* key) { return json.at(key).get<std::size_t>(); };
  if (type == "ByteLevel") return ByteLevel{};
  if (type == "ByteFallback") return ByteFallback{};
  if (type == "Fuse") return Fuse{};
  if (type == "Replace") return Replace{parse_pattern(json), json.string("content")};
  if (type == "Strip") return Strip{json.string("content"), count("start"), count("stop")};
  if (type == "Metaspace") {
    return Metaspace{json.string("replacement"), parse_prepend_scheme(json) != PrependScheme::kNever};
  }
  if (type == "WordPiece") return WordPiece{json.string("prefix"), json.boolean("cleanup")};
  if (type == "BPEDecoder") return Bpe{json.string("suffix")};
  return Ctc{json.string("pad_token"), json.string("word_delimiter_token"), json.boolean("cleanup")};
}

std::unique_ptr<Stream> Decoder::stream(std::string& out) const {
  std::unique_ptr<Stream> next = std::make_unique<Sink>(out);
  if (clean_up_) next = std::make_unique<CleanUpStage>(std::move(next));
  // From here back to the last stage that makes one token of all, stages take that token in parts.
  const auto joins = [](const Step& step) {
    return std::holds_alternative<Fuse>(step) || std::holds_alternative<ByteLevel>(step);
  };
  for (auto step = steps_.rbegin(); step != steps_.rend(); ++step) {
    const bool joined = std::any_of(step + 1, steps_.rend(), joins);
    const bool whole = !std::all_of(steps_.rbegin(), step, [](const Step& later) {
      return std::holds_alternative<Strip>(later) || std::holds_alternative<Fuse>(later);
    });
    if (std::holds_alternative<ByteLevel>(*step)) {
      if (whole) next = std::make_unique<FuseStage>(true, std::move(next));
      next = std::make_unique<ByteLevelStage>(std::move(next));
    } else if (std::holds_alternative<ByteFallback>(*step)) {
      next = std::make_unique<ByteFallbackStage>(std::move(next));
    } else if (std::holds_alternative<Fuse>(*step)) {
      next = std::make_unique<FuseStage>(whole, std::move(next));
    } else if (std::holds_alternative<Spaces>(*step)) {
      next = each([](const std::string& token, bool first) { return first ? token : " " + token; }, std::move(next));
    } else if (const auto* const replace = std::get_if<Replace>(&*step)) {
      next = each([replace](const std::string& token,
                            bool /*first*/) { return replace->pattern.replace_all(token, replace->content); },
                  std::move(next));
    } else if (const auto* const strip = std::get_if<Strip>(&*step)) {
      if (joined && !whole) {
        next = std::make_unique<StripWhole>(*strip, std::move(next));
      } else {
        next = each([strip](const std::string& token, bool /*first*/) { return strip_token(*strip, token); },
                    std::move(next));
      }
    } else if (const auto* const metaspace = std::get_if<Metaspace>(&*step)) {
      next =
          each([metaspace](const std::string& token, bool first) { return metaspace_text(*metaspace, token, first); },
               std::move(next));
    } else if (const auto* const pieces = std::get_if<WordPiece>(&*step)) {
      next = each([pieces](std::string token, bool first) { return word_piece_text(*pieces, std::move(token), first); },
                  std::move(next));
    } else if (const auto* const bpe = std::get_if<Bpe>(&*step)) {
      next = std::make_unique<BpeStage>(*bpe, std::move(next));
    } else {
      next = std::make_unique<CtcStage>(std::get<Ctc>(*step), std::move(next));
    }
  }
  return next;
}

std::string Decoder::bytes_of(std::string token) const {
  const auto refuse = [](const char* stage) {
    throw Error(
        ErrorCode::kUnsupported,
        fmt::format("the tokenizer's decoder has a stage {}: what a token adds to a text depends on the others, "
                    "which a grammar cannot follow",
                    stage));
  };
  if (clean_up_) refuse("that takes spaces from before punctuation");
  bool joined = false;  // from here on stages see all tokens as one
  for (const Step& step : steps_) {
    if (std::holds_alternative<Fuse>(step)) {
      joined = true;
    } else if (const auto* const strip = std::get_if<Strip>(&step)) {
      if (joined && strip->stop > 0) refuse("Strip of the end");
      if (!joined) token = strip_token(*strip, token);
    } else if (joined) {
      refuse("behind one that joins tokens");
    } else if (std::holds_alternative<ByteLevel>(step)) {
      std::string bytes;
      if (alphabet_to_bytes(token, bytes)) token = bytes;
      joined = true;
    } else if (std::holds_alternative<ByteFallback>(step)) {
      if (const std::optional<char> byte = byte_of(token)) token = *byte;
      joined = true;
    } else if (std::holds_alternative<Spaces>(step)) {
      token.insert(token.begin(), ' ');
    } else if (const auto* const replace = std::get_if<Replace>(&step)) {
      token = replace->pattern.replace_all(token, replace->content);
    } else if (const auto* const metaspace = std::get_if<Metaspace>(&step)) {
      token = metaspace_text(*metaspace, token, false);
    } else if (const auto* const pieces = std::get_if<WordPiece>(&step)) {
      token = word_piece_text(*pieces, std::move(token), false);
    } else {
      refuse(std::holds_alternative<Bpe>(step) ? "BPEDecoder" : "CTC");
    }
  }
  return token;
}

}  // namespace metal_marlin
