#include "metal_marlin/tokenizer.h"

#include <gtest/gtest.h>

#include <ctime>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "base/unicode.h"
#include "io/gguf.h"
#include "io/gguf_tokenizer.h"
#include "io/json.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::shared_ptr<const Tokenizer> load(const std::string& name) {
  const auto path = test_data("tokenizers/" + name + ".json");
  return Tokenizer::from_json(read_file(path), path.string());
}

std::string from_hex(const std::string& hex) {
  std::string out;
  for (std::size_t i = 0; i < hex.size(); i += 2) out += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return out;
}

// Ids and texts that the tokenizers library gives.
class Families : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, Families,
                         testing::Values("gpt2", "gpt2-prefix", "llama3", "qwen2", "glm4", "deepseek3", "smollm",
                                         "sentencepiece", "metaspace"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST_P(Families, EncodesLikeTheReference) {
  const auto tokenizer = load(GetParam());
  const Json vectors = read_json_file(test_data(std::string("tokenizers/") + GetParam() + ".vectors.json"));
  EXPECT_GT(vectors.size(), 200U);
  for (const Json& vector : vectors) {
    const std::string text = from_hex(vector["hex"]);
    EXPECT_EQ(tokenizer->encode(text), vector["ids"].get<std::vector<TokenId>>()) << '[' << text << ']';
  }
}

TEST_P(Families, DecodesLikeTheReference) {
  const auto tokenizer = load(GetParam());
  for (const Json& vector : read_json_file(test_data(std::string("tokenizers/") + GetParam() + ".vectors.json"))) {
    const auto ids = vector["ids"].get<std::vector<TokenId>>();
    EXPECT_EQ(tokenizer->decode(ids, false), vector["decoded"].get<std::string>()) << vector["hex"];
  }
}

TEST_P(Families, StreamingNeverSplitsACharacter) {
  const auto tokenizer = load(GetParam());
  for (const Json& vector : read_json_file(test_data(std::string("tokenizers/") + GetParam() + ".vectors.json"))) {
    Detokenizer detokenizer(tokenizer, false);
    std::string text;
    for (const TokenId id : vector["ids"].get<std::vector<TokenId>>()) {
      const std::string piece = detokenizer.push(id);
      ASSERT_TRUE(is_valid_utf8(piece));
      text += piece;
    }
    EXPECT_EQ(text + detokenizer.finish(), vector["decoded"].get<std::string>());
  }
}

// What each token adds, one after the other behind a token that begins the text, is what they are decoded to.
TEST_P(Families, BytesOfTokensMakeTheirText) {
  const auto tokenizer = load(GetParam());
  const std::vector<std::string> bytes = tokenizer->token_bytes();
  ASSERT_EQ(static_cast<std::int64_t>(bytes.size()), tokenizer->vocab_size());
  const TokenId begin = tokenizer->encode("a", {.add_special = false}).back();
  const std::size_t begun = tokenizer->decode(std::vector<TokenId>{begin}).size();
  std::size_t compared = 0;
  for (const Json& vector : read_json_file(test_data(std::string("tokenizers/") + GetParam() + ".vectors.json"))) {
    std::vector<TokenId> ids{begin};
    std::string text;
    for (const TokenId id : vector["ids"].get<std::vector<TokenId>>()) {
      if (tokenizer->is_special(id)) {
        EXPECT_TRUE(bytes[static_cast<std::size_t>(id)].empty());
        continue;
      }
      ids.push_back(id);
      text += bytes[static_cast<std::size_t>(id)];
    }
    if (!is_valid_utf8(text)) continue;
    EXPECT_EQ(tokenizer->decode(ids).substr(begun), text);
    compared += text.size();
  }
  EXPECT_GT(compared, 1000U);
}

// Vocabularies with vectors of the llama.cpp project, which are not committed.
class GgufVocabularies : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(All, GgufVocabularies,
                         testing::Values("bert-bge", "command-r", "deepseek-llm", "gemma-4", "gpt-2", "llama-bpe",
                                         "llama-spm", "qwen2", "qwen35", "refact"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST_P(GgufVocabularies, EncodeLikeTheirVectors) {
  const auto path = shared_data(std::string("tokenizers/ggml-vocab-") + GetParam() + ".gguf");
  if (!path) GTEST_SKIP() << "data not here; set METAL_MARLIN_DATA to check against real vocabularies";
  const auto tokenizer = Tokenizer::load(*path);
  const std::string inputs = read_file(path->string() + ".inp");
  std::ifstream outputs(path->string() + ".out");
  const std::string separator = "\n__ggml_vocab_test__\n";
  int count = 0;
  for (std::size_t begin = 0; begin <= inputs.size();) {
    std::size_t end = inputs.find(separator, begin);
    if (end == std::string::npos) end = inputs.size();
    const std::string text = inputs.substr(begin, end - begin);
    begin = end + separator.size();
    std::string line;
    if (!std::getline(outputs, line)) break;
    std::istringstream numbers(line);
    const std::vector<TokenId> expected{std::istream_iterator<TokenId>(numbers), {}};
    EXPECT_EQ(tokenizer->encode(text, {false, false}), expected) << '[' << text << ']';
    ++count;
  }
  EXPECT_GT(count, 40);
}

TEST(Tokenizer, SpecialTokensCanBeReadAsText) {
  const auto tokenizer = load("smollm");
  const auto special = tokenizer->encode("<|im_start|>");
  EXPECT_EQ(special.size(), 1U);
  EXPECT_TRUE(tokenizer->is_special(special[0]));
  EXPECT_GT(tokenizer->encode("<|im_start|>", {true, false}).size(), 1U);
  EXPECT_EQ(tokenizer->decode(special), "");
  EXPECT_EQ(tokenizer->decode(special, false), "<|im_start|>");
}

double seconds_to_encode(const Tokenizer& tokenizer, const std::string& text) {
  const std::clock_t start = std::clock();  // of this process, whatever else the machine does
  EXPECT_FALSE(tokenizer.encode(text).empty());
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

// A quadratic step would make four times the text take sixteen times as long.
TEST(Tokenizer, TimeIsLinearOnRunsOfOneLetter) {
  for (const char* const name : {"gpt2", "llama3", "qwen2", "deepseek3", "sentencepiece", "metaspace"}) {
    const auto tokenizer = load(name);
    for (const char letter : {'a', ' ', '=', '1', '\n'}) {
      const double small = seconds_to_encode(*tokenizer, std::string(1 << 18, letter));
      const double large = seconds_to_encode(*tokenizer, std::string(1 << 20, letter));
      EXPECT_LT(large, 10 * small + 0.2) << name << " '" << letter << "'";
    }
  }
}

TEST(Tokenizer, FaultsAreNamed) {
  const auto parse = [](const std::string& json) { return Tokenizer::from_json(json, "t.json"); };
  expect_error(ErrorCode::kCorruptFile, "t.json: not valid JSON", [&] { parse("{"); });
  expect_error(ErrorCode::kUnsupported, "tokenizer type Fancy, expected BPE, Unigram, WordPiece or WordLevel",
               [&] { parse(R"({"model":{"type":"Fancy","vocab":{}}})"); });
  expect_error(ErrorCode::kUnsupported, "normalizer type Fancy",
               [&] { parse(R"({"normalizer":{"type":"Fancy"},"model":{}})"); });
  expect_error(ErrorCode::kUnsupported, "pre_tokenizer type Odd",
               [&] { parse(R"({"pre_tokenizer":{"type":"Odd"},"model":{}})"); });
  expect_error(ErrorCode::kCorruptFile, "merge 0 of 'a' and 'b'",
               [&] { parse(R"({"model":{"vocab":{"a":0},"merges":["a b"]}})"); });
  expect_error(ErrorCode::kUnsupported, "pattern '['", [&] {
    parse(
        R"({"pre_tokenizer":{"type":"Split","pattern":{"Regex":"["},"behavior":"Isolated","invert":false},"model":{"vocab":{},"merges":[]}})");
  });
  expect_error(ErrorCode::kNotFound, "has no tokenizer", [] { Tokenizer::load(test_data("fixtures/llama-tiny")); });
}

TEST(Unicode, InvalidPartsBecomeReplacementCharacters) {
  EXPECT_EQ(sanitize_utf8("a\xFF"
                          "b"),
            "a\xEF\xBF\xBD"
            "b");
  EXPECT_EQ(sanitize_utf8("\xE2\x82"
                          "A"),
            "\xEF\xBF\xBD"
            "A");
  EXPECT_EQ(sanitize_utf8("\xED\xA0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST(Unicode, CompletePrefixHoldsBackUnfinishedCharacters) {
  EXPECT_EQ(complete_prefix("abc"), 3U);
  EXPECT_EQ(complete_prefix("ab\xC3"), 2U);
  EXPECT_EQ(complete_prefix("ab\xF0\x9F\x98"), 2U);
  EXPECT_EQ(complete_prefix("ab\xF0\x9F\x98\x80"), 6U);
  EXPECT_EQ(complete_prefix("ab\x80"), 3U);  // never to be completed
  EXPECT_EQ(complete_prefix("ab\xE0\x80"), 4U);
}

}  // namespace
}  // namespace metal_marlin
