// Vocabularies of GGUF files, as llama.cpp reads them.
#include "io/gguf_tokenizer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "io/gguf.h"
#include "io/mapped_file.h"
#include "metal_marlin/tokenizer.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

TEST(GgufTokenizer, KeysThatAskForMoreAreNamed) {
  const MappedFile file(test_data("tokenizers/add_end.gguf"));
  Gguf gguf = parse_gguf(file.bytes(), "test.gguf");
  gguf.values["tokenizer.ggml.fim_pre_token_id"] = std::uint64_t{1};
  gguf.values["tokenizer.chat_template.tool_use"] = std::string_view("x");
  EXPECT_NO_THROW(gguf_tokenizer_json(gguf));
  gguf.values["tokenizer.ggml.something_new"] = true;
  expect_error(ErrorCode::kUnsupported, "tokenizer.ggml.something_new", [&] { gguf_tokenizer_json(gguf); });
  gguf.values.erase("tokenizer.ggml.something_new");
  gguf.values["tokenizer.ggml.pre"] = std::string_view("new-kind");
  expect_error(ErrorCode::kUnsupported, "tokenizer.ggml.pre is 'new-kind'", [&] { gguf_tokenizer_json(gguf); });
  gguf.values["tokenizer.ggml.model"] = std::string_view("rwkv");
  expect_error(ErrorCode::kUnsupported, "tokenizer.ggml.model is 'rwkv'", [&] { gguf_tokenizer_json(gguf); });
}

// A file's tokens and keys, which stay as long as it does.
class GgufSpecials : public testing::Test {
 protected:
  void add_tokens(std::string_view model, std::initializer_list<std::pair<std::size_t, std::string_view>> named,
                  std::size_t count = 128) {
    bytes_.clear();
    std::vector<std::string> texts(count);
    for (std::size_t i = 0; i < count; ++i) texts[i] = fmt::format("t{}", i);
    for (const auto& [id, text] : named) texts[id] = text;
    for (const std::string& text : texts) {
      const std::uint64_t size = text.size();
      const auto raw = std::as_bytes(std::span(&size, 1));
      bytes_.insert(bytes_.end(), raw.begin(), raw.end());
      for (const char c : text) bytes_.push_back(static_cast<std::byte>(c));
    }
    gguf_.where = "x.gguf";
    gguf_.values["tokenizer.ggml.model"] = model;
    gguf_.values["tokenizer.ggml.tokens"] = GgufArray{kGgufString, count, bytes_};
    gguf_.values["tokenizer.ggml.merges"] = GgufArray{kGgufString, 0, {}};
  }
  Json added() const { return gguf_tokenizer_json(gguf_).at("added_tokens"); }
  void set(const char* key, std::uint64_t id) { gguf_.values[fmt::format("tokenizer.ggml.{}", key)] = id; }
  std::vector<std::int64_t> ends() const { return gguf_special_tokens(gguf_).ends; }

  Gguf gguf_;
  std::vector<std::byte> bytes_;
};
using Ids = std::vector<std::int64_t>;

// What llama.cpp has where keys are missing (src/llama-vocab.cpp).
TEST_F(GgufSpecials, OfKindsWithoutTheKeys) {
  const auto found = [&](std::string_view model, const char* pre = "default") {
    add_tokens(model, {});
    gguf_.values["tokenizer.ggml.pre"] = std::string_view(pre);
    const GgufSpecialTokens tokens = gguf_special_tokens(gguf_);
    return Ids{tokens.begin, tokens.end, tokens.separator, tokens.unknown, tokens.padding};
  };
  EXPECT_EQ(found("llama"), (Ids{1, 2, -1, 0, -1}));
  EXPECT_EQ(found("gpt2"), (Ids{11, 11, -1, -1, -1}));
  EXPECT_EQ(found("gpt2", "glm4"), (Ids{-1, 11, -1, -1, -1}));
  EXPECT_EQ(found("bert"), (Ids{101, -1, 102, 100, 0}));
  EXPECT_EQ(found("t5"), (Ids{-1, 1, -1, 2, 0}));
  EXPECT_EQ(found("gemma4"), (Ids{-1, -1, -1, -1, -1}));
  EXPECT_EQ(found("none"), (Ids{-1, -1, -1, -1, -1}));
  add_tokens("gpt2", {}, 8);  // of which 11 is none
  EXPECT_EQ(gguf_special_tokens(gguf_).end, -1);
}

TEST_F(GgufSpecials, IdsThatNameNoTokenAreNotUsed) {
  add_tokens("llama", {});
  std::vector<std::string> notices;
  const auto told = [&](const std::string& notice) { notices.push_back(notice); };
  set("bos_token_id", 3);
  set("eos_token_id", 128);
  EXPECT_EQ(gguf_special_tokens(gguf_, told).end, 2);
  ASSERT_EQ(notices.size(), 2U);
  EXPECT_EQ(notices[0], "x.gguf: key tokenizer.ggml.eos_token_id is 128 of 128 tokens, and is not used");
  EXPECT_EQ(notices[1], "x.gguf: key tokenizer.ggml.eos_token_id names no token, as which llama.cpp takes 2");
  set("eos_token_id", 127);
  set("eot_token_id", 4000000000);
  notices.clear();
  EXPECT_EQ(gguf_special_tokens(gguf_, told).ends, (Ids{127}));
  EXPECT_EQ(notices.size(), 1U);
}

TEST_F(GgufSpecials, EndsOfAnswersAreToldByTheirTexts) {
  add_tokens("gpt2", {{20, "<|im_end|>"}, {21, "<|endoftext|>"}, {22, "<|im_start|>"}, {23, "<|file_sep|>"}});
  set("eos_token_id", 21);
  EXPECT_EQ(ends(), (Ids{21, 23, 20}));
  set("eot_token_id", 30);
  set("fim_pad_token_id", 31);
  set("fim_sep_token_id", 32);
  EXPECT_EQ(ends(), (Ids{21, 30, 31, 32, 20}));
  add_tokens("gpt2", {{20, "<|end|>"}, {21, "<|return|>"}, {22, "<|call|>"}});
  set("eos_token_id", 21);
  EXPECT_EQ(ends(), (Ids{21, 30, 31, 32, 22}));  // an answer's messages end with <|end|>, which goes on
  add_tokens("gemma4", {{1, "</s>"}, {2, "<|tool_response>"}});
  EXPECT_EQ(ends(), (Ids{21, 30, 31, 32, 2}));
}

TEST_F(GgufSpecials, ThatLookLikeControlAreControl) {
  add_tokens("gpt2", {{20, "<|im_end|>"}, {21, "<|fim_prefix|>"}, {22, "<|im_start|>"}});
  Json added = gguf_tokenizer_json(gguf_)["added_tokens"];
  ASSERT_EQ(added.size(), 2U);
  EXPECT_EQ(added[0]["id"], 20);
  EXPECT_EQ(added[1]["id"], 21);
  EXPECT_TRUE(added[0]["special"].get<bool>());
}

// Parts of messages, and what ends but a message, are shown; a </s> beside another end is a text.
TEST_F(GgufSpecials, ThatGoOnWithinAnAnswerAreShown) {
  add_tokens("gpt2", {{20, "<|channel|>"}, {21, "<|return|>"}, {22, "<|call|>"}, {23, "<|end|>"}});
  std::vector<std::int32_t> types(128, 1);
  for (const std::size_t control : {20, 21, 22, 23}) types[control] = 3;
  gguf_.values["tokenizer.ggml.token_type"] = GgufArray{5, 128, std::as_bytes(std::span(types))};
  std::map<int, bool> special;
  for (const Json& token : added()) special[token.at("id")] = token.at("special");
  EXPECT_EQ(special, (std::map<int, bool>{{20, false}, {21, true}, {22, true}, {23, false}}));
  add_tokens("gpt2", {{20, "<|end|>"}, {21, "</s>"}});
  ASSERT_EQ(added().size(), 4U);
  EXPECT_TRUE(added()[0]["special"].get<bool>());  // of a file without calls
  set("bos_token_id", 1);                          // which this kind always adds
  add_tokens("gemma4", {{20, "</s>"}, {21, "<|tool_response>"}, {22, "<|channel|>"}, {23, "x"}});
  for (const Json& token : added()) EXPECT_NE(token.at("id"), 20);
}

// llama.cpp goes by the model's name.
TEST_F(GgufSpecials, TakeTheSpaceAroundThemByName) {
  add_tokens("gpt2", {{20, "<|end|>"}, {21, "<|endoftext|>"}, {22, "<mask>"}});
  std::vector<std::int32_t> types(128, 1);
  types[22] = 4;
  gguf_.values["tokenizer.ggml.token_type"] = GgufArray{5, 128, std::as_bytes(std::span(types))};
  const auto strips = [&](const char* name) {
    std::string out;
    for (const Json& token : added()) {
      out += token.at(name).get<bool>() ? '1' : '0';
    }
    return out;
  };
  EXPECT_EQ(std::pair(strips("lstrip"), strips("rstrip")), std::pair(std::string("000"), std::string("000")));
  gguf_.values["general.name"] = std::string_view("Phi-3 Mini");
  EXPECT_EQ(std::pair(strips("lstrip"), strips("rstrip")), std::pair(std::string("000"), std::string("101")));
  gguf_.values["tokenizer.ggml.pre"] = std::string_view("jina-v2-es");
  EXPECT_EQ(std::pair(strips("lstrip"), strips("rstrip")), std::pair(std::string("001"), std::string("000")));
}

TEST_F(GgufSpecials, BpeHasMerges) {
  add_tokens("gpt2", {});
  gguf_.values.erase("tokenizer.ggml.merges");
  for (const char* const model : {"gpt2", "gemma4"}) {
    gguf_.values["tokenizer.ggml.model"] = std::string_view(model);
    expect_error(ErrorCode::kNotFound, "x.gguf: key tokenizer.ggml.merges is missing",
                 [&] { gguf_tokenizer_json(gguf_); });
  }
  gguf_.values["tokenizer.ggml.model"] = std::string_view("gpt2");
  gguf_.values["tokenizer.ggml.pre"] = std::string_view("kimi-k2");
  EXPECT_NO_THROW(gguf_tokenizer_json(gguf_));
}

TEST_F(GgufSpecials, TokensAreThereOnce) {
  add_tokens("llama", {{3, "t7"}});
  expect_error(ErrorCode::kCorruptFile, "tokenizer.ggml.tokens: 't7' is token 3 and 7",
               [&] { gguf_tokenizer_json(gguf_); });
  add_tokens("llama", {{3, ""}, {4, ""}});
  EXPECT_NO_THROW(gguf_tokenizer_json(gguf_));
}

// SentencePiece merges by scores, of equal ones the leftmost, whichever tokens they make.
TEST_F(GgufSpecials, PiecesOfEqualScoresAreMergedFromTheLeft) {
  add_tokens("llama", {{3, "a"}, {4, "b"}, {5, "c"}, {6, "bc"}, {7, "ab"}, {8, "▁"}, {9, "xy"}, {10, "ca"}});
  std::vector<float> scores(128, -100);
  scores[6] = scores[7] = scores[10] = -1;
  gguf_.values["tokenizer.ggml.scores"] = GgufArray{6, 128, std::as_bytes(std::span(scores))};
  gguf_.values["tokenizer.ggml.add_space_prefix"] = false;
  gguf_.values["tokenizer.ggml.add_bos_token"] = false;
  const auto ids = [&](const char* text) {
    return Tokenizer::from_json(gguf_tokenizer_json(gguf_).dump(), "x")->encode(text);
  };
  using Tokens = std::vector<TokenId>;
  EXPECT_EQ(ids("abc"), (Tokens{7, 5}));  // not a, bc, which has the lower id
  EXPECT_EQ(ids("abcabc"), (Tokens{7, 10, 6}));
  EXPECT_EQ(ids("xya"), (Tokens{9, 3}));  // of characters that are no tokens themselves
  scores[6] = -0.5F;
  EXPECT_EQ(ids("abc"), (Tokens{3, 6}));
  std::string lengthy;
  Tokens expected;
  for (int i = 0; i < 40; ++i) {
    lengthy += "abc";
    expected.insert(expected.end(), {3, 6});
  }
  EXPECT_EQ(ids(lengthy.c_str()), expected);
  expect_error(ErrorCode::kUnsupported, "the text has 'z', for whose bytes the vocabulary has no tokens",
               [&] { ids("az"); });
  scores[6] = std::numeric_limits<float>::quiet_NaN();
  expect_error(ErrorCode::kCorruptFile, "tokenizer.ggml.scores: that of token 6 is nan", [&] { ids("a"); });
}

// Scores and types of more tokens than there are, none, and of integers.
TEST_F(GgufSpecials, ScoresAndTypesMayBeMore) {
  add_tokens("llama", {});
  EXPECT_NO_THROW(gguf_tokenizer_json(gguf_));
  const std::vector<std::int32_t> numbers(130, 1);
  const auto array = [&](std::size_t count) {
    return GgufArray{5, count, std::as_bytes(std::span(numbers)).first(count * 4)};  // of i32
  };
  gguf_.values["tokenizer.ggml.scores"] = array(130);
  gguf_.values["tokenizer.ggml.token_type"] = array(130);
  EXPECT_NO_THROW(gguf_tokenizer_json(gguf_));
  gguf_.values["tokenizer.ggml.token_type"] = array(127);
  expect_error(ErrorCode::kCorruptFile, "127 types for 128 tokens", [&] { gguf_tokenizer_json(gguf_); });
  gguf_.values["tokenizer.ggml.token_type"] = array(128);
  gguf_.values["tokenizer.ggml.scores"] = array(127);
  expect_error(ErrorCode::kCorruptFile, "127 scores for 128 tokens", [&] { gguf_tokenizer_json(gguf_); });
}

}  // namespace
}  // namespace metal_marlin
