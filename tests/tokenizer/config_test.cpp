// The files beside a tokenizer.json, and the fields of it that are not used, beside what Transformers makes of them.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "io/json.h"
#include "metal_marlin/tokenizer.h"
#include "test_data.h"
#include "tokenizer/tokenizer_config.h"

namespace metal_marlin {
namespace {

void write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

TEST(TokenizerConfig, IsTheReferences) {
  std::ifstream stream(test_data("tokenizers/config_cases.json"));
  const OrderedJson file = OrderedJson::parse(stream);  // the order of names counts
  EXPECT_GT(file["cases"].size(), 100U);
  for (const OrderedJson& entry : file["cases"]) {
    SCOPED_TRACE(entry["name"].get<std::string>() + " " + entry["tokenizer"].dump());
    const TemporaryFolder folder;
    OrderedJson tokenizer_json = file["base"];
    tokenizer_json.update(entry["tokenizer"]);
    write(folder.path() / "tokenizer.json", tokenizer_json.dump());
    for (const auto& [name, text] : entry["files"].items()) write(folder.path() / name, text.dump());
    const auto tokenizer = Tokenizer::load(folder.path());
    for (const OrderedJson& text : entry["texts"]) {
      const auto ids = text[1].get<std::vector<TokenId>>();
      EXPECT_EQ(tokenizer->encode(text[0].get<std::string>()), ids) << text[0];
      EXPECT_EQ(tokenizer->decode(ids, false), text[2].get<std::string>()) << text[0];
      Detokenizer detokenizer(tokenizer, false);
      std::string streamed;
      for (const TokenId id : ids) streamed += detokenizer.push(id);
      EXPECT_EQ(streamed + detokenizer.finish(), text[2].get<std::string>()) << text[0];
    }
  }
}

// The order of a file's names is the order of their ids, which sorting would change.
TEST(TokenizerConfig, NamesKeepTheirOrder) {
  const TokenizerConfig config = parse_tokenizer_config(
      R"({"z_token": "<z>", "a_token": "<a>", "extra_special_tokens": {"y": "<y>", "b": "<b>"}})", "c");
  std::string names;
  for (const AddedToken& token : config.named_tokens) names += token.content;
  EXPECT_EQ(names, "<z><a><y><b>");
  EXPECT_TRUE(config.unknown.empty());
}

// By transformers 5.24. Ids of an added_tokens.json count for their order alone.
TEST(TokenizerConfig, AddedTokensAreInTheOrderOfTheirIds) {
  const auto tokens = [](const std::string& added) {
    const std::string joined = join_tokenizer_config("{}", R"({"bos_token": "<b>"})", added, "m/tokenizer.json");
    std::string out;
    for (const AddedToken& token : parse_tokenizer_config(joined, "c").tokens)
      out += token.content + (token.special ? "!" : "");
    return out;
  };
  EXPECT_EQ(tokens(R"({"<z>": 9, "<b>": 10, "<a>": -1})"), "<a><z><b>!");
  EXPECT_EQ(tokens(R"({"<z>": "9", "<b>": "10", "<c>": "z"})"), "<b>!<z><c>");  // texts, as texts
  EXPECT_EQ(tokens(R"({"<z>": 9, "<b>": 9})"), "<b>!");                         // the last of one id
  for (const char* const wrong : {R"({"<z>": 9, "<b>": "10"})", R"({"<b>": null})", R"({"<b>": 8.5})"})
    expect_error(ErrorCode::kCorruptFile, "m/added_tokens.json: field <b> is ", [&] { tokens(wrong); });
  expect_error(ErrorCode::kCorruptFile, "m/added_tokens.json: found array", [&] { tokens("[]"); });
}

// Each error names the file that is wrong, which the tokenizer.json is not.
TEST(TokenizerConfig, ErrorsNameTheFile) {
  const TemporaryFolder folder;
  const Json base = read_json_file(test_data("tokenizers/config_cases.json"))["base"];
  write(folder.path() / "tokenizer.json", base.dump());
  for (const auto& [name, text] : {std::pair("tokenizer_config.json", R"({"bos_token": 5})"),
                                   std::pair("tokenizer_config.json", R"({"extra_special_tokens": "<x>"})"),
                                   std::pair("tokenizer_config.json", R"({"extra_special_tokens": ["<x>", null]})"),
                                   std::pair("special_tokens_map.json", "{"), std::pair("added_tokens.json", "[]")}) {
    write(folder.path() / name, text);
    expect_error(ErrorCode::kCorruptFile, (folder.path() / name).string() + ": ",
                 [&] { Tokenizer::load(folder.path()); });
    std::filesystem::remove(folder.path() / name);
  }
}

// As the reference, which makes empty tokens of them that no text holds.
TEST(TokenizerConfig, EntriesWithoutContentAddNothing) {
  const char* const decoder = R"({"added_tokens_decoder": {"9": {"special": true}, "10": {"content": null}, "11": {},
      "12": {"content": "<new>"}}})";
  const Json base = read_json_file(test_data("tokenizers/config_cases.json"))["base"];
  const auto plain = Tokenizer::from_json(base.dump(), "t.json", "{}");
  const auto tokenizer = Tokenizer::from_json(base.dump(), "t.json", decoder);
  EXPECT_EQ(tokenizer->vocab_size(), plain->vocab_size() + 1);
  EXPECT_EQ(tokenizer->find("<new>"), plain->vocab_size());
}

std::shared_ptr<const Tokenizer> with(const char* key, const Json& value, const std::string& config = "",
                                      const Tokenizer::Notice& notice = {}) {
  Json json = read_json_file(test_data("tokenizers/config_cases.json"))["base"];
  json[key] = value;
  return Tokenizer::from_json(json.dump(), "t.json", config, notice);
}

// By transformers 5.24: what it adds, in its order.
TEST(TokenizerConfig, SpecialTokensOfSeveralFields) {
  const char* const additional = R"("additional_special_tokens": ["<t1>"])";
  const char* const list = R"("extra_special_tokens": ["<t2>"])";
  const char* const object = R"("extra_special_tokens": {"a": "<t2>"})";
  const char* const own = R"("model_specific_special_tokens": {"image_token": "<t3>"})";
  const auto added = [](std::initializer_list<const char*> fields) {
    std::string text;
    for (const char* const field : fields) text += (text.empty() ? "{" : ", ") + std::string(field);
    std::vector<std::string> out;
    for (const AddedToken& token : parse_tokenizer_config(text + "}", "c").named_tokens) out.push_back(token.content);
    return out;
  };
  using Tokens = std::vector<std::string>;
  EXPECT_EQ(added({additional, object}), (Tokens{"<t2>", "<t1>"}));
  EXPECT_EQ(added({own, list, additional}), (Tokens{"<t3>", "<t2>"}));
  EXPECT_EQ(added({own, object, additional}), (Tokens{"<t2>", "<t1>"}));
  EXPECT_EQ(added({additional, own}), (Tokens{"<t3>", "<t1>"}));
}

TEST(TokenizerJson, FieldsThatAreNotKnownAreRefused) {
  expect_error(ErrorCode::kUnsupported, "t.json: field something is not one that we know",
               [] { with("something", 1); });
  expect_error(ErrorCode::kCorruptFile, "field version is \"2.0\"", [] { with("version", "2.0"); });
  expect_error(ErrorCode::kUnsupported, "normalizer: field mode is not one that we know", [] {
    with("normalizer", {{"type", "Lowercase"}, {"mode", "full"}});
  });
  expect_error(ErrorCode::kUnsupported, "pre_tokenizer[0]: field limit is not one that we know", [] {
    with("pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {{{"type", "Whitespace"}, {"limit", 3}}}}});
  });
  expect_error(ErrorCode::kUnsupported, "decoder: field sep is not one that we know", [] {
    with("decoder", {{"type", "Fuse"}, {"sep", "-"}});
  });
  expect_error(ErrorCode::kUnsupported, "model: field alpha is not one that we know", [] {
    with("model", {{"type", "Unigram"}, {"vocab", {{"a", -1.0}}}, {"alpha", 0.1}});
  });
  expect_error(ErrorCode::kUnsupported, "model: dropout is not supported", [] {
    with("model", {{"type", "BPE"}, {"vocab", {{"a", 0}}}, {"merges", Json::array()}, {"dropout", 0.1}});
  });
  expect_error(ErrorCode::kUnsupported, "added_tokens: field score is not one that we know", [] {
    with("added_tokens", {{{"id", 300}, {"content", "x"}, {"score", 1}}});
  });
  expect_error(ErrorCode::kUnsupported, "pre_tokenizer type UnicodeScripts is not supported", [] {
    with("pre_tokenizer", {{"type", "UnicodeScripts"}});
  });
  // Doubles characters in the library.
  expect_error(ErrorCode::kUnsupported, "normalizer: Prepend of an empty text is not supported", [] {
    with("normalizer", {{"type", "Prepend"}, {"prepend", ""}});
  });
  expect_error(
      ErrorCode::kCorruptFile, "single: SpecialToken: field id is \"x\", expected a key of special_tokens", [] {
        const Json pieces = {{{"SpecialToken", {{"id", "x"}, {"type_id", 0}}}}};
        with(
            "post_processor",
            {{"type", "TemplateProcessing"}, {"single", pieces}, {"pair", pieces}, {"special_tokens", Json::object()}});
      });
  expect_error(ErrorCode::kCorruptFile, "pattern: found 2 fields, expected one of String, Regex alone", [] {
    with("normalizer", {{"type", "Replace"}, {"pattern", {{"String", "a"}, {"Regex", "b"}}}, {"content", ""}});
  });
  expect_error(ErrorCode::kCorruptFile, "field add_prefix_space is false, expected true", [] {
    with("pre_tokenizer",
         {{"type", "Metaspace"}, {"replacement", "_"}, {"prepend_scheme", "always"}, {"add_prefix_space", false}});
  });
}

TEST(TokenizerJson, FieldsThatAreLeftOutAreNoticed) {
  std::string notices;
  const auto note = [&](const std::string& text) { notices += text + "\n"; };
  const auto tokenizer = with("truncation", {{"max_length", 1}, {"strategy", "LongestFirst"}, {"stride", 0}},
                              R"({"model_max_length": 8, "legacy": true, "new_thing": 1})", note);
  EXPECT_EQ(tokenizer->encode("abc").size(), 3U);
  EXPECT_EQ(notices,
            "t.json: field truncation is not used: texts are neither cut nor padded\n"
            "tokenizer_config.json: not known here, and not used: new_thing\n");
}

TEST(TokenizerFolder, OtherFormsAreNamed) {
  for (const char* const name : {"tokenizer.model", "tekken.json", "vocab.json"}) {
    const TemporaryFolder folder;
    write(folder.path() / name, "x");
    expect_error(ErrorCode::kUnsupported, std::string("has its tokenizer as ") + name,
                 [&] { Tokenizer::load(folder.path()); });
  }
}

// Each field of each stage, missing or with a value of each kind: tools/make_tokenizer_fields.py.
TEST(TokenizerJson, FieldsAreTheReferences) {
  const Json data = read_json_file(test_data("tokenizers/fields.json"));
  std::size_t loaded = 0;
  for (const Json& entry : data["cases"]) {
    SCOPED_TRACE(entry.dump());
    Json json = data["base"];
    json["model"] = data["models"][entry["model"].get<std::size_t>()];
    if (!entry["stage"].is_null()) {
      const Json& stage = data["stages"][entry["stage"].get<std::size_t>()];
      json[stage[0].get<std::string>()] = stage[1];
    }
    const Json::json_pointer path(entry["path"].get<std::string>());
    if (entry.contains("value")) {
      json[path] = entry["value"];
    } else if (json[path.parent_pointer()].is_array()) {
      json[path.parent_pointer()].erase(std::stoul(path.back()));
    } else {
      json[path.parent_pointer()].erase(path.back());
    }
    std::shared_ptr<const Tokenizer> tokenizer;
    try {
      tokenizer = Tokenizer::from_json(json.dump(), "t.json");
    } catch (const Error&) {
    }
    EXPECT_EQ(tokenizer != nullptr, entry.contains("ids"));
    if (!tokenizer || !entry.contains("ids")) continue;
    ++loaded;
    for (std::size_t i = 0; i < data["texts"].size(); ++i) {
      if (entry["ids"][i].is_null()) {
        EXPECT_THROW(static_cast<void>(tokenizer->encode(data["texts"][i].get<std::string>())), Error);
      } else {
        EXPECT_EQ(tokenizer->encode(data["texts"][i].get<std::string>()), entry["ids"][i].get<std::vector<TokenId>>());
      }
    }
    for (std::size_t i = 0; i < data["ids"].size(); ++i) {
      if (entry["texts"][i].is_null()) continue;  // a Strip that is longer than a token, which the library dies of
      EXPECT_EQ(tokenizer->decode(data["ids"][i].get<std::vector<TokenId>>(), false),
                entry["texts"][i].get<std::string>())
          << data["ids"][i];
    }
  }
  EXPECT_GT(loaded, 200U);
  EXPECT_GT(data["cases"].size() - loaded, 500U);
}

// The library panics there; a model that writes such a token is not at fault.
// Ids may lie anywhere; memory follows from how many there are.
TEST(TokenizerJson, IdsMayLieFarApart) {
  constexpr TokenId kFar = 2147483000;
  const Json json = {{"version", "1.0"},
                     {"model",
                      {{"type", "BPE"},
                       {"vocab", {{"a", 0}, {"b", 5000000}, {"ab", kFar}}},
                       {"merges", Json::array({Json::array({"a", "b"})})}}}};
  const auto tokenizer = Tokenizer::from_json(json.dump(), "t.json", R"({"eos_token": "<end>"})");
  EXPECT_EQ(tokenizer->encode("aab<end>"), (std::vector<TokenId>{0, kFar, 3}));  // the next one behind the model's 3
  EXPECT_EQ(tokenizer->decode(std::vector<TokenId>{kFar, 5000000, 4, 0}), "ab b a");
  EXPECT_EQ(tokenizer->vocab_size(), std::int64_t{kFar} + 1);
  const std::vector<std::string> bytes = tokenizer->token_bytes();  // as many as a model may have
  EXPECT_EQ(bytes.size(), std::size_t{1} << 24);
  EXPECT_EQ(bytes[5000000], " b");
  Json beyond = json;
  beyond["model"]["vocab"]["c"] = 2147483648;
  expect_error(ErrorCode::kCorruptFile, "token ids from 0 to 2^31 - 1",
               [&] { Tokenizer::from_json(beyond.dump(), "t.json"); });
  Json last = json;
  last["model"]["vocab"]["ab"] = 2147483647;
  last["added_tokens"] = Json::array();
  for (const char* const content : {"ab", "more"})
    last["added_tokens"].push_back({{"id", 0},
                                    {"content", content},
                                    {"single_word", false},
                                    {"lstrip", false},
                                    {"rstrip", false},
                                    {"normalized", false},
                                    {"special", false}});
  EXPECT_NO_THROW(Tokenizer::from_json(last.dump(), "t.json"));
  expect_error(ErrorCode::kCorruptFile, "no id is left for token <end> behind the largest, 2147483647",
               [&] { Tokenizer::from_json(last.dump(), "t.json", R"({"eos_token": "<end>"})"); });
}

// A token that is there twice is found as the last of them says, and shown as normalized if any of them is.
TEST(TokenizerJson, TokensThatAreAddedTwiceAreTheReferences) {
  struct Added {
    bool normalized;
    bool special;
    bool rstrip;
  };
  const auto tokenizer = [](std::initializer_list<Added> tokens) {
    Json list = Json::array();
    for (const Added& token : tokens) {
      list.push_back({{"id", 0},
                      {"content", "X"},
                      {"single_word", false},
                      {"lstrip", false},
                      {"rstrip", token.rstrip},
                      {"normalized", token.normalized},
                      {"special", token.special}});
    }
    const Json model = {
        {"type", "WordLevel"}, {"unk_token", "<unk>"}, {"vocab", {{"<unk>", 0}, {"a", 1}, {"b", 2}, {" ", 3}}}};
    const Json json = {{"version", "1.0"},
                       {"added_tokens", list},
                       {"normalizer", {{"type", "Lowercase"}}},
                       {"pre_tokenizer", {{"type", "CharDelimiterSplit"}, {"delimiter", "-"}}},
                       {"model", model}};
    return Tokenizer::from_json(json.dump(), "t.json");
  };
  using Ids = std::vector<TokenId>;
  const auto raw = tokenizer({{true, true, false}, {false, false, true}});
  EXPECT_EQ(raw->encode("X a"), (Ids{4, 1}));
  EXPECT_EQ(raw->encode("x-a"), (Ids{0, 1}));
  EXPECT_EQ(raw->decode(Ids{4, 1}), "x a");
  const auto normalized = tokenizer({{false, false, true}, {true, false, false}});
  EXPECT_EQ(normalized->encode("X-a"), (Ids{4, 1}));
  EXPECT_EQ(normalized->encode("x "), (Ids{4, 3}));
  EXPECT_EQ(normalized->decode(Ids{4, 1}), "x a");
  EXPECT_EQ(tokenizer({{false, true, false}, {false, false, false}})->decode(Ids{4, 1}, true), "a");
}

TEST(TokenizerJson, TokensOfWhichNothingIsLeftAreRefused) {
  Json json = read_json_file(test_data("tokenizers/gpt2.json"));
  json["normalizer"] = {{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}};
  json["added_tokens"].push_back({{"id", 0},
                                  {"content", "\n"},
                                  {"single_word", false},
                                  {"lstrip", false},
                                  {"rstrip", false},
                                  {"normalized", true},
                                  {"special", false}});
  expect_error(ErrorCode::kUnsupported, "t.json: of the added token '\\x0a' nothing is left",
               [&] { Tokenizer::from_json(json.dump(), "t.json"); });
  json["added_tokens"].back()["normalized"] = false;
  EXPECT_NO_THROW(Tokenizer::from_json(json.dump(), "t.json"));
}

// Characters without tokens of their own are no error where longer tokens end behind them with better scores.
TEST(TokenizerJson, AUnigramNeedsAnUnknownTokenWhereItIsUsed) {
  Json vocab = Json::array();
  for (const auto& [token, score] : {std::pair("a", -1.0), {"abc", -1.0}, {"ab", -2.0}, {"c", -3.0}})
    vocab.push_back(Json::array({token, score}));
  const Json model = {{"type", "Unigram"}, {"unk_id", nullptr}, {"vocab", vocab}};
  const auto tokenizer = Tokenizer::from_json(Json{{"version", "1.0"}, {"model", model}}.dump(), "t.json");
  EXPECT_EQ(tokenizer->encode("abca"), (std::vector<TokenId>{1, 0}));
  EXPECT_EQ(tokenizer->encode("abab"), (std::vector<TokenId>{2, 2}));
  expect_error(ErrorCode::kUnsupported, "no unk_id", [&] { static_cast<void>(tokenizer->encode("ba")); });
}

// As the library: a pattern that also matches nothing.
TEST(TokenizerJson, NothingIsReplacedInAnEmptyToken) {
  const Json stages = {{{"type", "Strip"}, {"content", "a"}, {"start", 1}, {"stop", 0}},
                       {{"type", "Replace"}, {"pattern", {{"Regex", "x|"}}}, {"content", "-"}}};
  const auto tokenizer = with("decoder", {{"type", "Sequence"}, {"decoders", stages}});
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("ab"), false), "-b-");
}

TEST(TokenizerJson, AStripThatIsLongerThanItsTokenTakesAllOfIt) {
  const auto tokenizer = with("decoder", {{"type", "Strip"}, {"content", "a"}, {"start", 1}, {"stop", 2}});
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("aba"), false), "b");
}

}  // namespace
}  // namespace metal_marlin
