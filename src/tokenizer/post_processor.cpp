#include "tokenizer/post_processor.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "metal_marlin/error.h"
#include "tokenizer/stages.h"

namespace metal_marlin {
namespace {

constexpr std::int64_t kMaxId = 1 << 26;
// Bounds of how often a text may be repeated.
constexpr std::size_t kMaxStages = 8;
constexpr std::size_t kMaxPieces = 64;

}  // namespace

TokenId parse_token_id(const Json& json, const JsonObject& owner, const char* key) {
  if (!json.is_number_integer() || json.get<std::int64_t>() < 0 || json.get<std::int64_t>() > kMaxId) {
    owner.wrong(key, "token ids from 0 to 2^26");
  }
  return json.get<TokenId>();
}

// Labels in a template are keys of `special_tokens`, each with the ids that it stands for.
std::vector<PostProcessor::Piece> PostProcessor::parse_pieces(const JsonObject& json, const char* key) {
  const Json& pieces = json.at(key);
  if (!pieces.is_array() || pieces.size() > kMaxPieces) json.wrong(key, fmt::format("at most {} pieces", kMaxPieces));
  std::vector<Piece> out;
  for (const Json& entry : pieces) {
    const JsonObject piece(entry, json.where() + ": " + key);
    if (piece.has("Sequence")) {
      const bool first = piece.object("Sequence").string("id") == "A";
      out.push_back({first ? Piece::Kind::kFirst : Piece::Kind::kSecond, {}});
      continue;
    }
    const std::string label = piece.object("SpecialToken").string("id");
    const JsonObject token = json.object("special_tokens").object(label.c_str());
    const Json& ids = token.at("ids");
    if (!ids.is_array()) token.wrong("ids", "an array");
    Piece special{Piece::Kind::kSpecial, {}};
    for (const Json& id : ids) special.ids.push_back(parse_token_id(id, token, "ids"));
    out.push_back(std::move(special));
  }
  return out;
}

PostProcessor::Stage PostProcessor::parse_stage(const JsonObject& json, const std::string& type) {
  if (type == "TemplateProcessing") {
    return {true, {parse_pieces(json, "single"), json.has("pair") ? parse_pieces(json, "pair") : std::vector<Piece>{}}};
  }
  if (type != "BertProcessing" && type != "RobertaProcessing") {
    unsupported_stage(json, "post_processor type " + type);
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
  for_each_stage(json, where, "processors", [&](const JsonObject& stage) {
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
