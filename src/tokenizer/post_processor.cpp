#include "tokenizer/post_processor.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "metal_marlin/error.h"
#include "tokenizer/stages.h"

namespace metal_marlin {
namespace {

constexpr std::int64_t kMaxId = std::numeric_limits<TokenId>::max();
// Bounds of how often a text may be repeated.
constexpr std::size_t kMaxStages = 8;
constexpr std::size_t kMaxPieces = 64;

const std::vector<StageType>& post_processor_types() {
  const std::vector<JsonField> ends{{"sep", FieldKind::kAny}, {"cls", FieldKind::kAny}};
  static const std::vector<StageType> all{
      {"ByteLevel", byte_level_fields()},
      {"TemplateProcessing",
       {{"single", FieldKind::kAny}, {"pair", FieldKind::kAny}, {"special_tokens", FieldKind::kAny}}},
      {"BertProcessing", ends},
      {"RobertaProcessing",  // without one of the flags, which are of offsets, the library takes it for BERT's
       {ends[0],
        ends[1],
        {"trim_offsets", FieldKind::kFlag, FieldNeed::kOptional},
        {"add_prefix_space", FieldKind::kFlag, FieldNeed::kOptional}}}};
  return all;
}

// Labels, each with the ids that it stands for.
using Labels = std::map<std::string, std::vector<TokenId>>;

Labels parse_labels(const JsonObject& json) {
  constexpr std::array<JsonField, 3> kFields{
      {{"id", FieldKind::kText}, {"ids", FieldKind::kAny}, {"tokens", FieldKind::kAny}}};
  const JsonObject list = json.object("special_tokens");
  Labels labels;
  for (const auto& [label, value] : list.json().items()) {
    const JsonObject token(value, list.where() + ": " + label);
    check_fields(token, kFields);
    const Json& ids = token.at("ids");
    if (!ids.is_array()) token.wrong("ids", "an array");
    std::vector<TokenId>& out = labels[label];
    for (const Json& id : ids) out.push_back(parse_token_id(id, token, "ids"));
    const Json& names = token.at("tokens");
    const bool texts =
        names.is_array() && std::all_of(names.begin(), names.end(), [](const Json& name) { return name.is_string(); });
    if (!texts) token.wrong("tokens", "strings");
  }
  return labels;
}

}  // namespace

TokenId parse_token_id(const Json& json, const JsonObject& owner, const char* key) {
  if (!json.is_number_integer() || json.get<std::int64_t>() < 0 || json.get<std::int64_t>() > kMaxId) {
    owner.wrong(key, "token ids from 0 to 2^31 - 1");
  }
  return json.get<TokenId>();
}

std::vector<PostProcessor::Piece> PostProcessor::parse_pieces(const JsonObject& json, const char* key, bool if_used) {
  constexpr std::array<std::string_view, 2> kKinds{"Sequence", "SpecialToken"};
  constexpr std::array<std::string_view, 2> kParts{"A", "B"};
  constexpr std::array<JsonField, 2> kFields{{{"id", FieldKind::kText}, {"type_id", FieldKind::kId}}};
  const Labels labels = parse_labels(json);
  const Json& pieces = json.at(key);
  if (!pieces.is_array() || pieces.size() > kMaxPieces) json.wrong(key, fmt::format("at most {} pieces", kMaxPieces));
  std::vector<Piece> out;
  for (const Json& entry : pieces) {
    const JsonObject piece(entry, json.where() + ": " + key);
    const std::string kind = only_field(piece, kKinds);
    const JsonObject value = piece.object(kind.c_str());
    check_fields(value, kFields);
    if (kind == "Sequence") {
      out.push_back({parse_choice(value, "id", kParts) == 0 ? Piece::Kind::kFirst : Piece::Kind::kSecond, {}});
      continue;
    }
    const auto label = labels.find(value.string("id"));
    const bool missing = label == labels.end();
    if (missing && !if_used) value.wrong("id", "a key of special_tokens");
    out.push_back(missing ? Piece{Piece::Kind::kMissing, {}} : Piece{Piece::Kind::kSpecial, label->second});
  }
  return out;
}

PostProcessor::Stage PostProcessor::parse_stage(const JsonObject& json, const std::string& type) {
  if (type == "TemplateProcessing") {
    return {true, {parse_pieces(json, "single", false), parse_pieces(json, "pair", true)}};
  }
  const auto end = [&](const char* key) {
    const Json& pair = json.at(key);
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string()) json.wrong(key, "a token and its id");
    return parse_token_id(pair[1], json, key);
  };
  return {false, {}, end("cls"), end("sep"), type == "RobertaProcessing"};
}

PostProcessor PostProcessor::parse(const Json& json, const std::string& where) {
  PostProcessor processor;
  processor.where_ = where;
  for_each_stage(json, where, "post_processor", "processors", post_processor_types(), [&](const JsonObject& stage) {
    const std::string type = stage.string("type");
    if (type == "ByteLevel") return;  // offsets only
    if (processor.stages_.size() == kMaxStages)
      unsupported_stage(stage, fmt::format("more than {} stages", kMaxStages));
    processor.stages_.push_back(parse_stage(stage, type));
  });
  return processor;
}

void PostProcessor::apply_template(const Template& pieces, std::vector<Ids>& parts, bool add_special) const {
  std::vector<Ids> out;
  for (const Piece& piece : parts.size() == 1 ? pieces.single : pieces.pair) {
    const std::size_t index = piece.kind == Piece::Kind::kSecond ? 1 : 0;
    if (piece.kind == Piece::Kind::kSpecial) {
      if (add_special) out.push_back(piece.ids);
    } else if (piece.kind == Piece::Kind::kMissing) {
      if (!add_special) continue;
      throw Error(ErrorCode::kUnsupported,
                  where_ + ": the template for two parts names a token that special_tokens lacks");
    } else if (parts.size() > 2 || index >= parts.size()) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{}: a template for part {} of {}", where_, index + 1, parts.size()));
    } else {
      out.push_back(parts[index]);
    }
  }
  parts = std::move(out);
}

void PostProcessor::surround(const Stage& stage, std::vector<Ids>& parts) {
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (i == 0) {
      parts[i].insert(parts[i].begin(), stage.cls);
    } else if (stage.sep_before) {
      parts[i].insert(parts[i].begin(), stage.sep);
    }
    parts[i].push_back(stage.sep);
  }
}

void PostProcessor::apply(std::vector<TokenId>& ids, bool add_special) const {
  if (stages_.empty()) return;
  std::vector<Ids> parts{std::move(ids)};
  for (const Stage& stage : stages_) {
    if (stage.is_template) {
      apply_template(stage.pieces, parts, add_special);
    } else if (add_special) {
      surround(stage, parts);
    }
  }
  ids.clear();
  for (const Ids& part : parts) ids.insert(ids.end(), part.begin(), part.end());
}

}  // namespace metal_marlin
