// Small tokenizers of kinds that programs like this one got wrong, with what the reference gives.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "io/json.h"
#include "metal_marlin/tokenizer.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

TEST(TokenizerFieldCases, AreTheReferences) {
  const Json cases = read_json_file(test_data("tokenizers/field_cases.json"));
  EXPECT_EQ(cases.size(), 15U);
  for (const Json& entry : cases) {
    SCOPED_TRACE(entry["name"].get<std::string>());
    const auto tokenizer = Tokenizer::from_json(entry["tokenizer"].dump(), "tokenizer.json",
                                                entry.contains("config") ? entry["config"].dump() : "");
    for (const Json& pair : entry.value("encode", Json::array())) {
      EXPECT_EQ(tokenizer->encode(pair[0].get<std::string>()), pair[1].get<std::vector<TokenId>>()) << pair[0];
    }
    if (entry.contains("decode")) {
      EXPECT_EQ(tokenizer->decode(entry["decode"].get<std::vector<TokenId>>()), entry["text"].get<std::string>());
    }
  }
}

TEST(TokenizerFieldCases, EndsOfGgufKindsWithoutTheKeys) {
  const auto encode = [](const char* name) {
    return Tokenizer::load(test_data(std::string("tokenizers/") + name + ".gguf"))->encode("ab");
  };
  EXPECT_EQ(encode("begin_of_llama3"), (std::vector<TokenId>{257, 256}));
  EXPECT_EQ(encode("add_end"), (std::vector<TokenId>{257, 256, 258}));
  EXPECT_EQ(encode("pre_falcon3"), (std::vector<TokenId>{257, 256}));
}

// Matches of nothing, behind a stage that took the text's beginning or all of it, by tokenizers 0.23.
TEST(TokenizerFieldCases, ReplacingNothingBehindOtherStages) {
  const Json strip = {{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}};
  const auto replace = [](const char* kind, const char* pattern, const char* content) {
    return Json{{"type", "Replace"}, {"pattern", {{kind, pattern}}}, {"content", content}};
  };
  const auto encode = [](const Json& normalizers, bool metaspace, const char* text) {
    Json model = {{"type", "BPE"}, {"vocab", Json::object()}, {"merges", Json::array()}};
    TokenId id = 0;
    for (const char* const token : {"a", "b", "X", "-", "▁"}) model["vocab"][token] = id++;
    Json json = {{"version", "1.0"}, {"model", model}};
    json["normalizer"] = {{"type", "Sequence"}, {"normalizers", normalizers}};
    if (metaspace)
      json["pre_tokenizer"] = {
          {"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "first"}, {"split", true}};
    return Tokenizer::from_json(json.dump(), "t.json")->encode(text);
  };
  using Ids = std::vector<TokenId>;
  for (const Json& match : {replace("String", "", "X"), replace("Regex", "x*", "X"), replace("Regex", "^", "X"),
                            replace("Regex", "$", "X")}) {
    for (const bool metaspace : {false, true}) {
      EXPECT_EQ(encode({strip, match}, metaspace, " "), Ids());
      EXPECT_EQ(encode({replace("String", "a", ""), match}, metaspace, "a"), Ids());
    }
  }
  EXPECT_EQ(encode({strip, replace("String", "", "X")}, true, "  a b "), (Ids{4, 2, 0, 2, 4, 2, 1, 2}));
  EXPECT_EQ(encode({strip, replace("Regex", "^", "X")}, true, "  a b "), (Ids{4, 2, 0, 4, 1}));
  EXPECT_EQ(encode({strip, replace("Regex", R"(\b)", "-")}, true, "  a b "), (Ids{4, 3, 0, 3, 4, 3, 1, 3}));
  EXPECT_EQ(encode({strip, replace("String", "b", "X")}, true, "  a b "), (Ids{0, 4, 2}));
}

TEST(TokenizerFieldCases, TextGoesOnBehindAPrompt) {
  const Json cases = read_json_file(test_data("tokenizers/field_cases.json"));
  const auto tokenizer = Tokenizer::from_json(cases[0]["tokenizer"].dump(), "tokenizer.json");
  const std::vector<TokenId> prompt = tokenizer->encode("a");
  const std::vector<TokenId> more =
      tokenizer->encode("a");  // "▁a", whose space is a text's first only at its beginning
  Detokenizer detokenizer(tokenizer, true, prompt);
  std::string text;
  for (const TokenId id : more) text += detokenizer.push(id);
  EXPECT_EQ(text + detokenizer.finish(), " a");
}

}  // namespace
}  // namespace metal_marlin
