// What sentence-transformers' files and GGUF's metadata say of vectors.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "metal_marlin/embed.h"
#include "runtime/embedding_files.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

class EmbeddingFolder : public testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) const {
    const std::filesystem::path path = folder_.path() / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  [[nodiscard]] EmbeddingConfig config() const { return read_embedding_config(folder_.path()); }
  // Without the folder.
  [[nodiscard]] std::string error() const {
    try {
      static_cast<void>(config());
    } catch (const Error& error) {
      std::string text = error.what();
      const std::size_t at = text.find(folder_.path().string());
      return at == text.npos ? text : text.replace(at, folder_.path().string().size(), "FOLDER");
    }
    return "no error";
  }
  void write_modules(const std::string& more) const {
    write("modules.json",
          R"([{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"})" + more + "]");
  }

  TemporaryFolder folder_;
};

constexpr const char* kPoolingModule = R"(, {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})";
constexpr const char* kNormalizeModule =
    R"(, {"path": "2_Normalize", "type": "sentence_transformers.base.modules.normalize.Normalize"})";

TEST_F(EmbeddingFolder, WithoutFilesItIsTheNormalizedMean) {
  EXPECT_EQ(config().pooling, Pooling::kMean);
  EXPECT_TRUE(config().normalize);
  EXPECT_FALSE(config().is_described);
  EXPECT_TRUE(embedding_files(folder_.path()).empty());
}

TEST_F(EmbeddingFolder, ModulesTellPoolingNormalizingAndPrompts) {
  write_modules(std::string(kPoolingModule) + kNormalizeModule);
  write("1_Pooling/config.json", R"({"word_embedding_dimension": 8, "pooling_mode_mean_tokens": false,
                                     "pooling_mode_lasttoken": true, "include_prompt": false})");
  write("config_sentence_transformers.json",
        R"({"prompts": {"query": "Instruct: find\nQuery:", "document": ""}, "default_prompt_name": "query"})");
  const EmbeddingConfig found = config();
  EXPECT_EQ(found.pooling, Pooling::kLast);
  EXPECT_TRUE(found.normalize);
  EXPECT_FALSE(found.include_prompt);
  EXPECT_TRUE(found.is_described);
  EXPECT_EQ(found.prompt("query"), "Instruct: find\nQuery:");
  EXPECT_EQ(found.prompt(""), "Instruct: find\nQuery:");
  EXPECT_EQ(found.prompt("document"), "");
  try {
    static_cast<void>(found.prompt("passage"));
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "the model has no prompt passage; there are document, query");
  }
  EXPECT_EQ(embedding_files(folder_.path()),
            (std::vector<std::string>{"config_sentence_transformers.json", "modules.json", "1_Pooling/config.json"}));
}

TEST_F(EmbeddingFolder, NewerKeysAndNoNormalizing) {
  write_modules(kPoolingModule);
  for (const auto& [text, pooling] : {std::pair(R"({"pooling_mode": "lasttoken"})", Pooling::kLast),
                                      std::pair(R"({"pooling_mode": ["cls"]})", Pooling::kCls),
                                      std::pair(R"({"embedding_dimension": 8})", Pooling::kMean)}) {
    write("1_Pooling/config.json", text);
    EXPECT_EQ(config().pooling, pooling) << text;
    EXPECT_FALSE(config().normalize);
  }
}

TEST_F(EmbeddingFolder, WhatIsNotThereIsRefusedByName) {
  write_modules(kPoolingModule);
  write("1_Pooling/config.json", R"({"pooling_mode": "max"})");
  EXPECT_EQ(error(), "FOLDER/1_Pooling/config.json: pooling max is not there, expected mean, lasttoken or cls");
  write("1_Pooling/config.json", R"({"pooling_mode_cls_token": true, "pooling_mode_lasttoken": true})");
  EXPECT_EQ(error(),
            "FOLDER/1_Pooling/config.json: pools in 2 ways (cls, lasttoken), expected one: vectors are not put "
            "side by side");
  write_modules(R"(, {"path": "2_Dense", "type": "sentence_transformers.models.Dense"})");
  EXPECT_EQ(error(),
            "FOLDER/modules.json[1]: a module of type sentence_transformers.models.Dense is not there, expected "
            "Transformer, Pooling, Normalize or LogitScore");
  write_modules(R"(, {"path": "../elsewhere", "type": "sentence_transformers.models.Pooling"})");
  EXPECT_EQ(error(), "FOLDER: file name ../elsewhere leaves the folder");
  write("modules.json", "{}");
  EXPECT_EQ(error(), "FOLDER/modules.json: expected a list of modules");
}

TEST_F(EmbeddingFolder, ARerankerTellsItsTokens) {
  write_modules(R"(, {"path": "1_LogitScore", "type": "sentence_transformers.cross_encoder.modules.LogitScore"})");
  write("1_LogitScore/config.json", R"({"true_token_id": 9693, "false_token_id": 2152})");
  ASSERT_TRUE(config().relevance);
  EXPECT_EQ(config().relevance->yes, 9693);
  EXPECT_EQ(config().relevance->no, 2152);
}

}  // namespace
}  // namespace metal_marlin
