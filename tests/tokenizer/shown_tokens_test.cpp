#include <gtest/gtest.h>

#include <array>

#include "metal_marlin/tokenizer.h"

namespace metal_marlin {
namespace {

TEST(ShownTokens, ArePartOfTextsAsOthersAre) {
  const auto tokenizer = Tokenizer::from_json(
      R"({"added_tokens": [
            {"id": 2, "content": "<call>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
            {"id": 3, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
          "decoder": {"type": "Fuse"},
          "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}})",
      "test");
  const std::vector<TokenId> ids = {0, 2, 1, 3};
  const auto shown = tokenizer->showing(std::array{std::string("<call>")});
  EXPECT_EQ(tokenizer->decode(ids), "ab");
  EXPECT_EQ(shown->decode(ids), "a<call>b");
  EXPECT_EQ(shown->decode(ids, false), "a<call>b<end>");
  EXPECT_EQ(tokenizer->token_bytes(), (std::vector<std::string>{"a", "b", "", ""}));
  EXPECT_EQ(shown->token_bytes(), (std::vector<std::string>{"a", "b", "<call>", ""}));
  EXPECT_EQ(shown->encode("a<call>"), tokenizer->encode("a<call>"));
  EXPECT_TRUE(shown->is_special(2));
  Detokenizer stream(shown);
  std::string text;
  for (const TokenId id : ids) text += stream.push(id);
  EXPECT_EQ(text + stream.finish(), "a<call>b");
  EXPECT_EQ(shown->showing(std::array{std::string("<end>")})->decode(ids), "a<call>b<end>");
}

}  // namespace
}  // namespace metal_marlin
