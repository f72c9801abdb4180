#include "io/gguf_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <unordered_set>

#include "base/printable.h"
#include "base/unicode.h"
#include "io/gguf_pre_kinds.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

// Values of tokenizer.ggml.token_type.
constexpr std::int64_t kNormal = 1;
constexpr std::int64_t kUnknown = 2;
constexpr std::int64_t kControl = 3;
constexpr std::int64_t kUserDefined = 4;

// Special tokens of files that do not name them, by kind of tokenizer.
struct UsualTokens {
  std::string_view model;
  std::int64_t begin;
  std::int64_t end;
  std::int64_t separator;
  std::int64_t unknown;
  std::int64_t padding;
};
constexpr std::array<UsualTokens, 4> kUsualTokens{{{"llama", 1, 2, -1, 0, -1},
                                                   {"gpt2", 11, 11, -1, -1, -1},
                                                   {"bert", 101, -1, 102, 100, 0},
                                                   {"t5", -1, 1, -1, 2, 0}}};

// Texts of tokens that end an answer, whatever a file says of them.
constexpr std::array<std::string_view, 22> kEnds{"<|eot_id|>",
                                                 "<|im_end|>",
                                                 "<|end|>",
                                                 "<|return|>",
                                                 "<|call|>",
                                                 "<|flush|>",
                                                 "<|calls|>",
                                                 "<end_of_turn>",
                                                 "<|endoftext|>",
                                                 "</s>",
                                                 "<|eom_id|>",
                                                 "<EOT>",
                                                 "_<EOT>",
                                                 "[EOT]",
                                                 "[EOS]",
                                                 "<|end_of_text|>",
                                                 "<end_of_utterance>",
                                                 "<eos>",
                                                 "<turn|>",
                                                 "<|tool_response>",
                                                 "<｜end▁of▁sentence｜>",
                                                 "[e~["};

// Tokens of infilling: those of a key or, without it, of a text.
struct InfillToken {
  std::string_view key;
  std::string_view older_key;
  bool ends_answer;
  std::array<std::string_view, 8> texts;
};
constexpr std::array<InfillToken, 6> kInfill{
    {{"fim_pre_token_id",
      "prefix_token_id",
      false,
      {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
       "<|prefix|>"}},
     {"fim_suf_token_id",
      "suffix_token_id",
      false,
      {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>",
       "<|suffix|>"}},
     {"fim_mid_token_id",
      "middle_token_id",
      false,
      {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>",
       "<|middle|>"}},
     {"fim_pad_token_id", "", true, {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"}},
     {"fim_rep_token_id", "", true, {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"}},
     {"fim_sep_token_id", "", true, {"<|file_sep|>"}}}};

// Parts of messages, which are shown whatever type a file gives them.
constexpr std::array<std::string_view, 4> kMessageParts{"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"};

constexpr std::string_view kMark = "▁";  // SentencePiece's space

Json split(std::string_view pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}

Json replace(const Json& pattern, std::string_view content) {
  return {{"type", "Replace"}, {"pattern", pattern}, {"content", content}};
}

Json byte_level() {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
}

Json sequence(const char* members, const Json& stages) {
  return {{"type", "Sequence"}, {members, stages}};
}

std::string base64(const std::vector<std::int64_t>& bytes) {
  constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  std::uint32_t bits = 0;
  int count = 0;
  for (const std::int64_t byte : bytes) {
    bits = bits << 8 | (static_cast<std::uint32_t>(byte) & 0xFF);
    for (count += 8; count >= 6; count -= 6) out += kAlphabet[bits >> (count - 6) & 63];
  }
  if (count > 0) out += kAlphabet[bits << (6 - count) & 63];
  return out.append((4 - out.size() % 4) % 4, '=');
}

Json mark_to_space() {
  return replace({{"String", kMark}}, " ");
}

Json space_to_mark() {
  return replace({{"String", " "}}, kMark);
}

Json decoders_of_marks() {
  return Json::array({mark_to_space(), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}});
}

template <std::size_t kSize>
bool holds(const std::array<std::string_view, kSize>& texts, std::string_view text) {
  return !text.empty() && std::find(texts.begin(), texts.end(), text) != texts.end();
}

// Of the many texts of a vocabulary, few begin as those do that have a part of their own.
bool may_be_special(std::string_view text) {
  return text.size() >= 3 && (text[0] == '<' || text[0] == '[' || text[0] == '_' || text.starts_with(kMark));
}

// SentencePiece BPE merges the pair that makes the best-scored piece; as ranked merges, that is nearly all splits of
// the pieces in order of score.
Json merges_from_scores(const std::vector<std::string_view>& tokens, const std::vector<float>& scores,
                        const std::vector<std::int64_t>& types) {
  std::unordered_map<std::string_view, std::size_t> ids;
  for (std::size_t i = 0; i < tokens.size(); ++i) ids.emplace(tokens[i], i);
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    if (types[i] == 1) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  Json merges = Json::array();
  for (const std::size_t id : order) {
    const std::string_view piece = tokens[id];
    std::vector<std::pair<std::size_t, std::size_t>> pairs;
    for (std::size_t at = 0; at < piece.size();) {
      next_character(piece, at);
      const auto left = ids.find(piece.substr(0, at));
      const auto right = ids.find(piece.substr(at));
      if (at < piece.size() && left != ids.end() && right != ids.end()) pairs.emplace_back(left->second, right->second);
    }
    std::sort(pairs.begin(), pairs.end());
    for (const auto& [left, right] : pairs) merges.push_back({tokens[left], tokens[right]});
  }
  return merges;
}

// A file's tokens.
struct Tokens {
  std::vector<std::string_view> texts;
  std::vector<std::int64_t> types;
};

std::vector<float> scores_of(const Gguf& gguf, const Tokens& tokens) {
  constexpr std::string_view kKey = "tokenizer.ggml.scores";
  if (!gguf.values.contains(kKey)) return std::vector<float>(tokens.texts.size());  // as llama.cpp: alike
  std::vector<float> scores = gguf.floats(kKey);
  if (scores.size() < tokens.texts.size()) {
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: key tokenizer.ggml.scores: {} scores for {} tokens",
                                                     gguf.where, scores.size(), tokens.texts.size()));
  }
  return scores;
}

Json vocabulary(const Tokens& tokens) {
  Json vocab = Json::object();
  for (std::size_t i = 0; i < tokens.texts.size(); ++i) vocab[std::string(tokens.texts[i])] = i;
  return vocab;
}

void fill_sentencepiece(const Gguf& gguf, const Tokens& tokens, Json& out) {
  const bool prefix = gguf.boolean("tokenizer.ggml.add_space_prefix").value_or(true);
  Json steps = Json::array();
  if (prefix) steps.push_back({{"type", "Prepend"}, {"prepend", "▁"}});
  steps.push_back(space_to_mark());
  out["normalizer"] = sequence("normalizers", steps);
  Json decoders = decoders_of_marks();
  if (prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  out["decoder"] = sequence("decoders", decoders);
  out["model"] = {{"type", "BPE"}, {"vocab", vocabulary(tokens)}, {"byte_fallback", true}, {"fuse_unk", true}};
  std::vector<float> scores = scores_of(gguf, tokens);
  scores.resize(tokens.texts.size());
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (!std::isfinite(scores[i]))
      throw Error(ErrorCode::kCorruptFile,
                  fmt::format("{}: key tokenizer.ggml.scores: that of token {} is {}", gguf.where, i, scores[i]));
  }
  out["model"]["merges"] = merges_from_scores(tokens.texts, scores, tokens.types);
  out["model"]["metal_marlin_scores"] = scores;
  const auto unknown = std::find(tokens.types.begin(), tokens.types.end(), kUnknown);
  if (unknown != tokens.types.end()) {
    out["model"]["unk_token"] = tokens.texts[static_cast<std::size_t>(unknown - tokens.types.begin())];
  }
}

// The strings of an array, all of which must be UTF-8.
std::vector<std::string_view> utf8_strings(const Gguf& gguf, const char* key) {
  std::vector<std::string_view> strings = gguf.strings(key);
  for (const std::string_view text : strings) {
    if (!is_valid_utf8(text))
      throw Error(ErrorCode::kCorruptFile, fmt::format("{}: key {}: a string is not UTF-8", gguf.where, key));
  }
  return strings;
}

void fill_bpe(const Gguf& gguf, const Tokens& tokens, const GgufPreKind& kind, Json& out) {
  Json stages = Json::array();
  for (const std::string_view pattern : kind.patterns) stages.push_back(split(pattern));
  if (kind.plain_utf8) {
    out["normalizer"] = space_to_mark();
    out["decoder"] = sequence("decoders", decoders_of_marks());
  } else {
    stages.push_back(byte_level());
    out["decoder"] = byte_level();
  }
  out["pre_tokenizer"] = sequence("pretokenizers", stages);
  const bool may_lack_merges = std::find(kind.names.begin(), kind.names.end(), "kimi-k2") != kind.names.end();
  if (!gguf.values.contains("tokenizer.ggml.merges") && !may_lack_merges)
    throw Error(ErrorCode::kNotFound, fmt::format("{}: key tokenizer.ggml.merges is missing", gguf.where));
  Json merges = Json::array();
  std::unordered_set<std::string_view> seen;  // the first of equal merges is the one that counts
  for (const std::string_view merge : utf8_strings(gguf, "tokenizer.ggml.merges")) {
    const std::size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos) {
      throw Error(ErrorCode::kCorruptFile,
                  fmt::format("{}: key tokenizer.ggml.merges: '{}' is not a pair of tokens", gguf.where, merge));
    }
    if (seen.insert(merge).second) merges.push_back({merge.substr(0, space), merge.substr(space + 1)});
  }
  out["model"] = {{"type", "BPE"},
                  {"vocab", vocabulary(tokens)},
                  {"merges", std::move(merges)},
                  {"ignore_merges", kind.ignore_merges},
                  {"byte_fallback", kind.plain_utf8}};
}

// Tokens that begin a word are spelled with U+2581, others without.
void fill_wordpiece(const Gguf& gguf, const Tokens& tokens, Json& out) {
  const bool lower = gguf.boolean("tokenizer.ggml.normalizer.lowercase").value_or(true);
  out["normalizer"] = {{"type", "BertNormalizer"},
                       {"clean_text", true},
                       {"handle_chinese_chars", true},
                       {"lowercase", lower},
                       {"strip_accents", gguf.boolean("tokenizer.ggml.normalizer.strip_accents").value_or(lower)}};
  out["pre_tokenizer"] = {{"type", "BertPreTokenizer"}};
  out["decoder"] = {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}};
  const std::int64_t id = gguf_special_tokens(gguf).unknown;
  if (id < 0)
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: key tokenizer.ggml.unknown_token_id: {}, and there are {} tokens", gguf.where,
                            gguf.text_of("tokenizer.ggml.unknown_token_id"), tokens.texts.size()));
  const auto unknown = static_cast<std::size_t>(id);
  Json vocab = Json::object();
  for (std::size_t i = 0; i < tokens.texts.size(); ++i) {
    std::string text(tokens.texts[i]);
    if (text.starts_with(kMark)) {
      text.erase(0, kMark.size());
    } else if (tokens.types[i] == kNormal && i != unknown) {
      text.insert(0, "##");
    }
    vocab[text] = i;
  }
  out["model"] = {{"type", "WordPiece"},
                  {"vocab", std::move(vocab)},
                  {"unk_token", tokens.texts[unknown]},
                  {"continuing_subword_prefix", "##"},
                  {"max_input_chars_per_word", 1 << 20}};
}

void fill_unigram(const Gguf& gguf, const Tokens& tokens, Json& out) {
  Json steps = Json::array();
  const std::vector<std::int64_t> map = gguf.integers("tokenizer.ggml.precompiled_charsmap");
  if (!map.empty()) steps.push_back({{"type", "Precompiled"}, {"precompiled_charsmap", base64(map)}});
  const bool merge_spaces = gguf.boolean("tokenizer.ggml.remove_extra_whitespaces").value_or(false);
  if (merge_spaces) {
    steps.push_back(replace({{"Regex", R"(\A +| +\z)"}}, ""));
    steps.push_back(replace({{"Regex", " +"}}, " "));
  }
  if (merge_spaces || gguf.boolean("tokenizer.ggml.add_space_prefix").value_or(false)) {
    steps.push_back({{"type", "Prepend"}, {"prepend", " "}});
  }
  steps.push_back(space_to_mark());
  out["normalizer"] = sequence("normalizers", steps);
  out["decoder"] = {{"type", "Metaspace"}, {"replacement", kMark}, {"prepend_scheme", "always"}};
  const std::vector<float> scores = scores_of(gguf, tokens);
  Json pieces = Json::array();
  for (std::size_t i = 0; i < tokens.texts.size(); ++i) {
    pieces.push_back({tokens.texts[i], tokens.types[i] == kUserDefined ? 0.0F : scores[i]});
  }
  const std::int64_t unknown = gguf_special_tokens(gguf).unknown;
  out["model"] = {{"type", "Unigram"}, {"vocab", std::move(pieces)}, {"unk_id", unknown < 0 ? Json() : Json(unknown)}};
}

// Which tokens take the white space around them: files do not say it, llama.cpp goes by names.
class Strips {
 public:
  explicit Strips(const Gguf& gguf) {
    const std::string pre(gguf.string("tokenizer.ggml.pre").value_or(""));
    const std::string architecture(gguf.string("general.architecture").value_or(""));
    std::string name(gguf.string("general.name").value_or(""));
    std::transform(name.begin(), name.end(), name.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    const auto any = [](const std::string& text, std::initializer_list<const char*> parts) {
      return std::any_of(parts.begin(), parts.end(),
                         [&](const char* part) { return text.find(part) != std::string::npos; });
    };
    if (any(pre, {"jina-v2-de", "jina-v2-es", "jina-v2-code"}) ||
        any(architecture, {"nomic-bert-moe", "jina-bert-v3"})) {
      left_ = "<mask>";
    } else if (any(name, {"phi-3", "phi3"})) {
      right_ = true;
    } else if (any(name, {"modern-bert"})) {
      left_ = "[MASK]";
    }
  }
  [[nodiscard]] bool left(std::string_view token) const { return !left_.empty() && token == left_; }
  [[nodiscard]] bool right(std::string_view token) const {
    return right_ && token != "<unk>" && token != "<s>" && token != "<|endoftext|>";
  }

 private:
  std::string_view left_;
  bool right_ = false;
};

Json added_token(std::size_t id, std::string_view content, bool special, const Strips& strips) {
  return {{"id", id},
          {"content", content},
          {"single_word", false},
          {"lstrip", strips.left(content)},
          {"rstrip", strips.right(content)},
          {"normalized", false},
          {"special", special}};
}

}  // namespace

namespace {

Tokens read_tokens(const Gguf& gguf) {
  Tokens tokens{utf8_strings(gguf, "tokenizer.ggml.tokens"), gguf.integers("tokenizer.ggml.token_type")};
  if (tokens.types.empty()) tokens.types.assign(tokens.texts.size(), kNormal);
  if (tokens.types.size() < tokens.texts.size()) {
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: key tokenizer.ggml.token_type: {} types for {} tokens",
                                                     gguf.where, tokens.types.size(), tokens.texts.size()));
  }
  tokens.types.resize(tokens.texts.size());
  std::unordered_map<std::string_view, std::size_t> ids;
  for (std::size_t i = 0; i < tokens.texts.size(); ++i) {
    const auto [other, is_new] = ids.emplace(tokens.texts[i], i);
    if (!is_new && !tokens.texts[i].empty())
      throw Error(ErrorCode::kCorruptFile, fmt::format("{}: key tokenizer.ggml.tokens: '{}' is token {} and {}",
                                                       gguf.where, printable(tokens.texts[i]), other->second, i));
  }
  return tokens;
}

// Tokens that look like ones that control are such, whatever type the file gives them; those that go on within an
// answer are not.
void correct_types(const Gguf& gguf, const GgufSpecialTokens& special, Tokens& tokens) {
  for (std::size_t i = 0; i < tokens.texts.size(); ++i) {
    const std::string_view text = tokens.texts[i];
    if (!may_be_special(text)) continue;
    const bool infill = std::any_of(kInfill.begin(), kInfill.end(), [&](const InfillToken& token) {
      return holds(token.texts, text) && !gguf.values.contains(fmt::format("tokenizer.ggml.{}", token.key)) &&
             !gguf.values.contains(fmt::format("tokenizer.ggml.{}", token.older_key));
    });
    const bool ends =
        std::find(special.ends.begin(), special.ends.end(), static_cast<std::int64_t>(i)) != special.ends.end();
    if (infill || (ends && holds(kEnds, text))) tokens.types[i] = kControl;
    if (holds(kMessageParts, text) || (text == "<|end|>" && !ends)) tokens.types[i] = kUserDefined;
    if (text == "</s>" && !ends) tokens.types[i] = kNormal;
  }
}

// The tokens around a text: where the file does not say, each kind has its own.
struct Ends {
  bool add_begin = false;
  bool add_end = false;
  std::int64_t begin = -1;
  std::int64_t end = -1;
};

Json ends_json(const Gguf& gguf, const Ends& ends, std::size_t tokens) {
  Json pieces = Json::array();
  Json special = Json::object();
  const auto add = [&](bool wanted, std::int64_t id, const char* label) {
    if (!wanted) return;
    if (id < 0 || id >= static_cast<std::int64_t>(tokens)) {
      throw Error(ErrorCode::kCorruptFile,
                  fmt::format("{}: the {} token to add around a text is {} of {} tokens (keys "
                              "tokenizer.ggml.bos_token_id, eos_token_id and add_bos_token, add_eos_token)",
                              gguf.where, label, id < 0 ? "none" : std::to_string(id), tokens));
    }
    pieces.push_back({{"SpecialToken", {{"id", label}, {"type_id", 0}}}});
    special[label] = {{"id", label}, {"ids", Json::array({id})}, {"tokens", Json::array({label})}};
  };
  add(ends.add_begin, ends.begin, "begin");
  pieces.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  add(ends.add_end, ends.end, "end");
  return {{"type", "TemplateProcessing"}, {"single", pieces}, {"pair", pieces}, {"special_tokens", special}};
}

const GgufPreKind& pre_kind(const Gguf& gguf, std::string_view model) {
  const std::string name(model == "gemma4" ? "gemma4" : gguf.string("tokenizer.ggml.pre").value_or("default"));
  const GgufPreKind* const kind = find_gguf_pre_kind(name.empty() ? "default" : name);
  if (kind == nullptr) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: key tokenizer.ggml.pre is '{}', which is no kind of pre-tokenizer known here",
                            gguf.where, name));
  }
  return *kind;
}

// Fills in the stages and the model; which ends this kind adds by default.
Ends fill_stages(const Gguf& gguf, std::string_view model, const Tokens& tokens, Json& out) {
  if (model == "llama") {
    fill_sentencepiece(gguf, tokens, out);
    return {.add_begin = true};
  }
  if (model == "gpt2" || model == "gemma4") {
    const GgufPreKind& kind = pre_kind(gguf, model);
    fill_bpe(gguf, tokens, kind, out);
    return {.add_begin = kind.add_bos};
  }
  if (model == "bert") {
    fill_wordpiece(gguf, tokens, out);
    return {.add_begin = true, .add_end = true};
  }
  if (model == "t5") {
    fill_unigram(gguf, tokens, out);
    return {.add_end = true};
  }
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}: key tokenizer.ggml.model is '{}', expected one of gpt2, llama, gemma4, bert, t5",
                          gguf.where, model));
}

}  // namespace

namespace {

// What is read, here and for the model's configuration.
constexpr std::array<std::string_view, 29> kUsedKeys{"ggml.model",
                                                     "ggml.pre",
                                                     "ggml.tokens",
                                                     "ggml.token_type",
                                                     "ggml.scores",
                                                     "ggml.merges",
                                                     "ggml.bos_token_id",
                                                     "ggml.eos_token_id",
                                                     "ggml.eot_token_id",
                                                     "ggml.eom_token_id",
                                                     "ggml.unknown_token_id",
                                                     "ggml.seperator_token_id",
                                                     "ggml.padding_token_id",
                                                     "ggml.add_bos_token",
                                                     "ggml.add_eos_token",
                                                     "ggml.add_space_prefix",
                                                     "ggml.remove_extra_whitespaces",
                                                     "ggml.precompiled_charsmap",
                                                     "ggml.normalizer.lowercase",
                                                     "ggml.normalizer.strip_accents",
                                                     "ggml.prefix_token_id",
                                                     "ggml.suffix_token_id",
                                                     "ggml.middle_token_id",
                                                     "ggml.fim_pre_token_id",
                                                     "ggml.fim_suf_token_id",
                                                     "ggml.fim_mid_token_id",
                                                     "ggml.fim_pad_token_id",
                                                     "ggml.fim_rep_token_id",
                                                     "ggml.fim_sep_token_id"};
// Tokens that a text is not given by itself (of two texts, of heads for other tasks), and the same tokenizer once more
// in the form of another program.
constexpr std::array<std::string_view, 10> kHarmlessKeys{"ggml.cls_token_id",
                                                         "ggml.mask_token_id",
                                                         "ggml.add_sep_token",
                                                         "ggml.token_type_count",
                                                         "ggml.separator_token_id",
                                                         "ggml.suppress_tokens",
                                                         "huggingface.json",
                                                         "rwkv.world",
                                                         "ggml.version",
                                                         "ggml.hf_json"};

// \throws Error (kUnsupported) naming a key of tokenizers that is neither used nor known to change nothing.
void check_keys_of_tokenizer(const Gguf& gguf) {
  constexpr std::string_view kPrefix = "tokenizer.";
  for (const auto& [key, value] : gguf.values) {
    if (!key.starts_with(kPrefix) || key.starts_with("tokenizer.chat_template")) continue;
    const std::string_view rest = std::string_view(key).substr(kPrefix.size());
    if (holds(kUsedKeys, rest) || holds(kHarmlessKeys, rest)) continue;
    gguf.refuse(key);
  }
}

// What the keys and texts of a file name.
class SpecialTokens {
 public:
  SpecialTokens(const Gguf& gguf, const std::function<void(const std::string&)>& notice)
      : gguf_(gguf),
        notice_(notice),
        model_(gguf.string("tokenizer.ggml.model").value_or("")),
        texts_(gguf.strings("tokenizer.ggml.tokens")) {}

  [[nodiscard]] GgufSpecialTokens find() {
    const auto* const usual = std::find_if(kUsualTokens.begin(), kUsualTokens.end(),
                                           [&](const UsualTokens& tokens) { return tokens.model == model_; });
    const UsualTokens defaults = usual == kUsualTokens.end() ? UsualTokens{model_, -1, -1, -1, -1, -1} : *usual;
    out_ = {token("bos_token_id", begin_of(defaults), true), token("eos_token_id", defaults.end, true),
            token("seperator_token_id", defaults.separator), token("unknown_token_id", defaults.unknown),
            token("padding_token_id", defaults.padding),     {}};
    add_end(out_.end);
    for (const char* const key : {"eot_token_id", "eom_token_id"}) add_end(token(key, -1));
    for (const InfillToken& infill : kInfill) {
      if (infill.ends_answer) add_end(token(infill.key, first_of(infill)));
    }
    for (std::size_t i = 0; i < texts_.size(); ++i) {
      if (may_be_special(texts_[i]) && holds(kEnds, texts_[i])) add_end(static_cast<std::int64_t>(i));
    }
    leave_out_messages();
    return out_;
  }

 private:
  // Of these kinds of BPE none, though 11 is the usual one.
  [[nodiscard]] std::int64_t begin_of(const UsualTokens& defaults) const {
    constexpr std::array<std::string_view, 3> kNone{"chatglm-bpe", "glm4", "glm5"};
    const bool none = model_ == "gpt2" && holds(kNone, gguf_.string("tokenizer.ggml.pre").value_or(""));
    return none ? -1 : defaults.begin;
  }

  // Where the file has no tokens, ids are the keys'.
  [[nodiscard]] std::int64_t token(std::string_view name, std::int64_t usual, bool told = false) const {
    const std::string key = fmt::format("tokenizer.ggml.{}", name);
    const auto count = static_cast<std::int64_t>(texts_.size());
    if (usual >= count) usual = -1;
    const auto id = gguf_.integer(key);
    if (id && (texts_.empty() || (*id >= 0 && *id < count))) return *id;
    if (notice_ && id)
      notice_(fmt::format("{}: key {} is {} of {} tokens, and is not used", gguf_.where, key, *id, count));
    if (notice_ && told && usual >= 0)
      notice_(fmt::format("{}: key {} names no token, as which llama.cpp takes {}", gguf_.where, key, usual));
    return usual;
  }

  [[nodiscard]] std::int64_t first_of(const InfillToken& infill) const {
    const auto found = std::find_if(texts_.begin(), texts_.end(), [&](std::string_view text) {
      return may_be_special(text) && holds(infill.texts, text);
    });
    return found == texts_.end() ? -1 : found - texts_.begin();
  }

  void add_end(std::int64_t id) {
    if (id >= 0 && std::find(out_.ends.begin(), out_.ends.end(), id) == out_.ends.end()) out_.ends.push_back(id);
  }

  // Where other tokens end an answer, <|end|> ends but a message of it, and </s> is a text.
  void leave_out_messages() {
    const auto ends = [&](std::string_view text) {
      return std::any_of(out_.ends.begin(), out_.ends.end(), [&](std::int64_t id) {
        return static_cast<std::size_t>(id) < texts_.size() && texts_[static_cast<std::size_t>(id)] == text;
      });
    };
    const auto leave_out = [&](std::string_view text) {
      std::erase_if(out_.ends, [&](std::int64_t id) {
        return static_cast<std::size_t>(id) < texts_.size() && texts_[static_cast<std::size_t>(id)] == text;
      });
    };
    const bool calls = ends("<|call|>") || ends("<|calls|>");
    if (calls && (ends("<|return|>") || ends("<|flush|>"))) leave_out("<|end|>");
    if (ends("<|tool_response>")) leave_out("</s>");
  }

  const Gguf& gguf_;
  const std::function<void(const std::string&)>& notice_;
  std::string_view model_;
  std::vector<std::string_view> texts_;
  GgufSpecialTokens out_;
};

}  // namespace

GgufSpecialTokens gguf_special_tokens(const Gguf& gguf, const std::function<void(const std::string&)>& notice) {
  return SpecialTokens(gguf, notice).find();
}

Json gguf_tokenizer_json(const Gguf& gguf) {
  const auto model = gguf.string("tokenizer.ggml.model");
  if (!model || *model == "none" || *model == "no_vocab") {
    throw Error(ErrorCode::kNotFound, fmt::format("{}: the model has no tokenizer", gguf.where));
  }
  check_keys_of_tokenizer(gguf);
  Tokens tokens = read_tokens(gguf);
  const GgufSpecialTokens special = gguf_special_tokens(gguf);
  correct_types(gguf, special, tokens);
  Json out = {{"version", "1.0"},      {"truncation", nullptr},    {"padding", nullptr},
              {"normalizer", nullptr}, {"pre_tokenizer", nullptr}, {"added_tokens", Json::array()}};
  Ends ends = fill_stages(gguf, *model, tokens, out);
  const Strips strips(gguf);
  for (std::size_t i = 0; i < tokens.texts.size(); ++i) {
    const std::int64_t type = tokens.types[i];
    if (type == kControl || type == kUserDefined || type == kUnknown) {
      out["added_tokens"].push_back(added_token(i, tokens.texts[i], type != kUserDefined, strips));
    }
  }
  ends.begin = special.begin;
  ends.end = *model == "bert" ? special.separator : special.end;
  if (*model != "bert") {  // always between these, whatever the keys say
    ends.add_begin = gguf.boolean("tokenizer.ggml.add_bos_token").value_or(ends.add_begin);
    ends.add_end = gguf.boolean("tokenizer.ggml.add_eos_token").value_or(ends.add_end);
    if (*model == "gemma4") ends.add_begin = true;
  }
  out["post_processor"] = ends_json(gguf, ends, tokens.texts.size());
  return out;
}

}  // namespace metal_marlin
