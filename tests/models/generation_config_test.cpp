#include "models/generation_config.h"

#include <gtest/gtest.h>

#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

TEST(GenerationConfig, SaysHowAnswersAreDrawn) {
  const SamplerOptions found = parse_generation_config(
      Json::parse(R"({"do_sample": true, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.05,
                      "repetition_penalty": 1.1, "eos_token_id": 2})"),
      "model");
  EXPECT_FLOAT_EQ(found.temperature, 0.6F);
  EXPECT_FLOAT_EQ(found.top_p, 0.95F);
  EXPECT_EQ(found.top_k, 20);
  EXPECT_FLOAT_EQ(found.min_p, 0.05F);
  EXPECT_FLOAT_EQ(found.repeat_penalty, 1.1F);
}

TEST(GenerationConfig, RestrictsNothingWhereItSaysNothing) {
  for (const char* const text : {"null", "{}", R"({"temperature": null, "top_k": -1})"}) {
    const SamplerOptions found = parse_generation_config(Json::parse(text), "model");
    EXPECT_EQ(found.temperature, 1);
    EXPECT_EQ(found.top_p, 1);
    EXPECT_EQ(found.top_k, 0);
    EXPECT_EQ(found.min_p, 0);
    EXPECT_EQ(found.repeat_penalty, 1);
    validate(found);
  }
}

TEST(GenerationConfig, NamesWhatIsWrong) {
  for (const auto& [text, field] : std::initializer_list<std::pair<const char*, const char*>>{
           {R"({"temperature": -1})", "temperature"},
           {R"({"temperature": "hot"})", "temperature"},
           {R"({"top_p": 0})", "top_p"},
           {R"({"top_p": 1.5})", "top_p"},
           {R"({"top_k": -2})", "top_k"},
           {R"({"top_k": 1.5})", "top_k"},
           {R"({"min_p": 2})", "min_p"},
           {R"({"repetition_penalty": 0})", "repetition_penalty"}}) {
    try {
      parse_generation_config(Json::parse(text), "model");
      FAIL() << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(field), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("model (generation)"), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace metal_marlin
