#include "tokenizer/token_model.h"

#include <fmt/format.h>

#include <array>
#include <nlohmann/json.hpp>

#include "metal_marlin/error.h"
#include "tokenizer/bpe.h"
#include "tokenizer/post_processor.h"
#include "tokenizer/scored_merges.h"
#include "tokenizer/stages.h"
#include "tokenizer/unigram.h"
#include "tokenizer/wordpiece.h"

namespace metal_marlin {
namespace {

Vocabulary parse_vocabulary(const JsonObject& model) {
  const JsonObject json = model.object("vocab");
  Vocabulary vocabulary;
  vocabulary.reserve(json.json().size());
  for (const auto& [token, id] : json.json().items()) {
    vocabulary.emplace(token, parse_token_id(id, json, token.c_str()));
  }
  return vocabulary;
}

// Merges come all as "a b" or all as ["a", "b"].
std::vector<std::pair<std::string, std::string>> parse_merges(const JsonObject& model) {
  std::vector<std::pair<std::string, std::string>> merges;
  const Json& list = model.at("merges");
  if (!list.is_array()) model.wrong("merges", "an array");
  for (const Json& entry : list) {
    if (entry.type() == list[0].type() && entry.is_string()) {
      const auto text = entry.get<std::string>();
      if (text.starts_with("#version")) continue;
      const std::size_t space = text.find(' ');
      if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
        merges.emplace_back(text.substr(0, space), text.substr(space + 1));
        continue;
      }
    } else if (entry.type() == list[0].type() && entry.is_array() && entry.size() == 2 && entry[0].is_string() &&
               entry[1].is_string()) {
      merges.emplace_back(entry[0].get<std::string>(), entry[1].get<std::string>());
      continue;
    }
    throw Error(
        ErrorCode::kCorruptFile,
        fmt::format("{}: merges[{}] is not a pair of tokens, written as the others are", model.where(), merges.size()));
  }
  return merges;
}

// This program's own field, beside merges that are nearly the same, for others, which leave it alone.
constexpr const char* kScores = "metal_marlin_scores";

std::unique_ptr<const TokenModel> parse_scored_merges(const JsonObject& model, const BpeOptions& options) {
  std::vector<float> scores;
  if (!model.at(kScores).is_array()) model.wrong(kScores, "an array");
  for (const Json& score : model.at(kScores)) {
    if (!score.is_number()) model.wrong(kScores, "numbers");
    scores.push_back(score.get<float>());
  }
  Vocabulary vocabulary = parse_vocabulary(model);
  std::optional<TokenId> unknown;
  if (options.unknown) {
    const auto found = vocabulary.find(*options.unknown);
    if (found == vocabulary.end()) model.wrong("unk_token", "a token of the vocabulary");
    unknown = found->second;
  }
  return std::make_unique<ScoredMerges>(std::move(vocabulary), std::move(scores), unknown, model.where());
}

std::unique_ptr<const TokenModel> parse_bpe(const JsonObject& model) {
  constexpr std::array<JsonField, 11> kFields{{{"type", FieldKind::kText, FieldNeed::kOptional},
                                               {kScores, FieldKind::kAny, FieldNeed::kOptional},
                                               {"vocab", FieldKind::kAny},
                                               {"merges", FieldKind::kAny},
                                               {"dropout", FieldKind::kAny, FieldNeed::kNullable},
                                               {"unk_token", FieldKind::kText, FieldNeed::kNullable},
                                               {"continuing_subword_prefix", FieldKind::kText, FieldNeed::kNullable},
                                               {"end_of_word_suffix", FieldKind::kText, FieldNeed::kNullable},
                                               {"fuse_unk", FieldKind::kFlag, FieldNeed::kNullable},
                                               {"byte_fallback", FieldKind::kFlag, FieldNeed::kNullable},
                                               {"ignore_merges", FieldKind::kFlag, FieldNeed::kNullable}}};
  check_fields(model, kFields);
  if (model.number_or("dropout", 0) != 0) {
    throw Error(ErrorCode::kUnsupported, model.where() + ": dropout is not supported");
  }
  BpeOptions options;
  options.byte_fallback = model.boolean_or("byte_fallback", false);
  options.ignore_merges = model.boolean_or("ignore_merges", false);
  options.fuse_unknown = model.boolean_or("fuse_unk", false);
  options.prefix = model.string_or("continuing_subword_prefix", "");
  options.suffix = model.string_or("end_of_word_suffix", "");
  if (model.has("unk_token")) options.unknown = model.string("unk_token");
  if (model.has(kScores)) return parse_scored_merges(model, options);
  return std::make_unique<Bpe>(parse_vocabulary(model), parse_merges(model), options, model.where());
}

std::unique_ptr<const TokenModel> parse_unigram(const JsonObject& model) {
  constexpr std::array<JsonField, 4> kFields{{{"type", FieldKind::kText, FieldNeed::kOptional},
                                              {"vocab", FieldKind::kAny},
                                              {"unk_id", FieldKind::kCount, FieldNeed::kNullable},
                                              {"byte_fallback", FieldKind::kFlag, FieldNeed::kOptional}}};
  check_fields(model, kFields);
  const Json& list = model.at("vocab");
  if (!list.is_array()) model.wrong("vocab", "an array");
  std::vector<std::pair<std::string, double>> pieces;
  pieces.reserve(list.size());
  for (const Json& entry : list) {
    if (!entry.is_array() || entry.size() != 2 || !entry[0].is_string() || !entry[1].is_number()) {
      throw Error(ErrorCode::kCorruptFile,
                  fmt::format("{}: vocab[{}] is not a token and its score", model.where(), pieces.size()));
    }
    pieces.emplace_back(entry[0].get<std::string>(), entry[1].get<double>());
  }
  std::optional<TokenId> unknown;
  if (model.has("unk_id"))
    unknown = static_cast<TokenId>(model.bounded("unk_id", 0, static_cast<std::int64_t>(pieces.size()) - 1));
  return std::make_unique<Unigram>(std::move(pieces), unknown, model.boolean_or("byte_fallback", false), model.where());
}

// Older files do not say what they hold.
std::string model_type(const JsonObject& model) {
  if (model.has("type")) return model.string("type");
  if (model.has("merges")) return "BPE";
  if (model.has("max_input_chars_per_word")) return "WordPiece";
  return model.has("vocab") && model.at("vocab").is_array() ? "Unigram" : "WordLevel";
}

}  // namespace

std::optional<TokenId> TokenModel::find(std::string_view token) const {
  const auto found = vocabulary_.find(token);
  if (found == vocabulary_.end()) return std::nullopt;
  return found->second;
}

void TokenModel::spell(Spellings& spellings) const {
  for (const auto& [token, id] : vocabulary_) spellings[id] = token;
}

std::vector<TokenId> byte_tokens(const TokenModel& model) {
  std::vector<TokenId> out;
  for (int byte = 0; byte < 256; ++byte) out.push_back(model.find(fmt::format("<0x{:02X}>", byte)).value_or(-1));
  return out;
}

std::unique_ptr<const TokenModel> TokenModel::parse(const JsonObject& json) {
  const std::string type = model_type(json);
  if (type == "BPE") return parse_bpe(json);
  if (type == "Unigram") return parse_unigram(json);
  if (type == "WordPiece") {
    constexpr std::array<JsonField, 5> kFields{{{"type", FieldKind::kText, FieldNeed::kOptional},
                                                {"vocab", FieldKind::kAny},
                                                {"unk_token", FieldKind::kText},
                                                {"continuing_subword_prefix", FieldKind::kText},
                                                {"max_input_chars_per_word", FieldKind::kCount}}};
    check_fields(json, kFields);
    return std::make_unique<WordPiece>(parse_vocabulary(json), json.string("unk_token"),
                                       json.string("continuing_subword_prefix"),
                                       json.at("max_input_chars_per_word").get<std::size_t>(), json.where());
  }
  if (type == "WordLevel") {
    constexpr std::array<JsonField, 3> kFields{{{"type", FieldKind::kText, FieldNeed::kOptional},
                                                {"vocab", FieldKind::kAny},
                                                {"unk_token", FieldKind::kText}}};
    check_fields(json, kFields);
    return std::make_unique<WordLevel>(parse_vocabulary(json), json.string("unk_token"), json.where());
  }
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}: tokenizer type {}, expected BPE, Unigram, WordPiece or WordLevel", json.where(), type));
}

}  // namespace metal_marlin
