// Tokenizers made of all stages at random, against the tokenizers library (tools/make_tokenizer_differential.py).
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/unicode.h"
#include "io/json.h"
#include "metal_marlin/tokenizer.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

std::string streamed(const std::shared_ptr<const Tokenizer>& tokenizer, const std::vector<TokenId>& ids,
                     bool skip_special) {
  Detokenizer detokenizer(tokenizer, skip_special);
  std::string text;
  for (const TokenId id : ids) {
    const std::string piece = detokenizer.push(id);
    EXPECT_TRUE(is_valid_utf8(piece));
    text += piece;
  }
  return text + detokenizer.finish();
}

void check(const std::shared_ptr<const Tokenizer>& tokenizer, const Json& vector, const Json& texts) {
  const bool decodes_only = vector[0].get<int>() < 0;
  const std::string text = decodes_only ? "" : texts[vector[0].get<std::size_t>()].get<std::string>();
  if (vector[1].is_null()) {
    EXPECT_THROW(static_cast<void>(tokenizer->encode(text)), Error) << '[' << text << ']';
    return;
  }
  const auto ids = vector[1].get<std::vector<TokenId>>();
  if (!decodes_only) {
    EXPECT_EQ(tokenizer->encode(text), ids) << '[' << text << ']';
  }
  const auto decoded = vector[2].get<std::string>();
  EXPECT_EQ(tokenizer->decode(ids, decodes_only), decoded) << vector[1];
  EXPECT_EQ(streamed(tokenizer, ids, decodes_only), decoded) << vector[1];
}

TEST(TokenizerDifferential, IdsAndTextsAreTheReferences) {
  const Json data = read_json_file(test_data("tokenizers/differential.json"));
  EXPECT_EQ(data["cases"].size(), 200U);
  for (std::size_t i = 0; i < data["cases"].size(); ++i) {
    const Json& entry = data["cases"][i];
    SCOPED_TRACE(i);
    SCOPED_TRACE(entry["config"].dump());
    SCOPED_TRACE(entry["changes"].dump());
    Json whole = entry["config"];
    whole["model"] = data["models"][entry["model"].get<std::size_t>()];
    whole["model"].update(entry["changes"]);
    const auto tokenizer = Tokenizer::from_json(whole.dump(), "t.json");
    for (const Json& vector : entry["vectors"]) check(tokenizer, vector, data["texts"]);
  }
}

}  // namespace
}  // namespace metal_marlin
