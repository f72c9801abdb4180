#include "base/regex.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "io/json.h"
#include "metal_marlin/error.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

// What Oniguruma matches (tools/check_regex_differential.py); few random patterns may be refused.
TEST(Regex, MatchesLikeOniguruma) {
  const Json data = read_json_file(test_data("tokenizers/patterns.json"));
  const auto fixed = data["fixed"].get<std::size_t>();
  std::size_t refused = 0;
  for (std::size_t i = 0; i < data["cases"].size(); ++i) {
    const Json& entry = data["cases"][i];
    const std::string text = i < fixed ? entry[1].get<std::string>() : data["text"].get<std::string>();
    const auto pattern = entry[0].get<std::string>();
    try {
      EXPECT_EQ(Regex(pattern, "test").replace_all(text, "¦"), entry[2].get<std::string>()) << pattern;
    } catch (const Error& error) {
      ++refused;
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      EXPECT_GE(i, fixed) << error.what();
    }
  }
  EXPECT_LT(refused, data["cases"].size() / 20);
}

TEST(Regex, GroupsRepeatAsOftenAsATextIsLong) {
  const std::string text(200'000, 'a');
  for (const char* const pattern : {"(?:a|b)*", "(a|b)*c?", "(?:(?=a)[^b])+", "(?>(?:a|b)+)"}) {
    const auto matches = Regex(pattern, "test").matches(text);
    ASSERT_FALSE(matches.empty()) << pattern;
    EXPECT_EQ(matches[0].end, text.size()) << pattern;
  }
}

TEST(Regex, CostlyPatternsAreRefused) {
  expect_error(ErrorCode::kUnsupported, "test: the pattern is too costly",
               [] { static_cast<void>(Regex("(a+)+$", "test").matches(fmt::format("{:a>40}b", ""))); });
}

TEST(Regex, WhatCannotBeTranslatedIsNamed) {
  const auto refuse = [](const char* pattern, const char* text) {
    expect_error(ErrorCode::kUnsupported, text, [&] { Regex(pattern, "t.json"); });
  };
  refuse("a(?~b)", "t.json: pattern 'a(?~b)': an absent operator (?~ is not supported (at 1)");
  refuse("(?<a>x)\\g<a>", "\\g is not supported");
  refuse("\\p{InBasicLatin}", "the property InBasicLatin is not supported");
  refuse("(?i)straße", "a character that folds to several under (?i)");
  refuse("(?i)miss", "a character that folds to several under (?i)");
  refuse("(?i)[a-f&&[b-z]]", "an intersection of classes with letters under (?i)");
  refuse("(?i)[^[^a]]", "a negated class in another under (?i)");
  refuse("(?:a|\\N{,2}^){2,}", "a group that may be empty, twice and more");
  refuse("\\Z\\n", "\\Z before more of a pattern");
  refuse("\\xe9", "a byte of a character");
  refuse("a{3,2}", "an interval whose end is below its start");
  refuse("[b-a]", "a range whose end is below its start");
  refuse("a)", "an unmatched ')'");
  refuse("(a", "a group without an end");
  refuse("[a", "a class without an end");
  refuse("(?(1)a|b)", "a condition (?(");
  refuse(std::string(5000, '(').c_str(), "nesting deeper than 100");
}

}  // namespace
}  // namespace metal_marlin
