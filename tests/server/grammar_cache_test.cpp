#include "server/grammar_cache.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "metal_marlin/error.h"

namespace metal_marlin::server {
namespace {

GrammarText regex(std::string text) {
  return {GrammarText::Kind::kRegex, std::move(text), "guided_regex"};
}

TEST(GrammarCache, MakesEachOnce) {
  GrammarCache cache;
  EXPECT_EQ(cache.find(regex("a")), nullptr);
  const auto made = cache.make(regex("a"));
  EXPECT_EQ(cache.find(regex("a")), made);
  EXPECT_EQ(cache.make(regex("a")), made);
  // The same text of another kind is another grammar.
  const auto schema = cache.make({GrammarText::Kind::kSchema, "true", "guided_json"});
  EXPECT_EQ(cache.find(regex("true")), nullptr);
  EXPECT_TRUE(schema->matches("[1]"));
  const auto choice = cache.make({GrammarText::Kind::kChoice, R"(["a","b"])", "guided_choice"});
  EXPECT_TRUE(choice->matches("b"));
  EXPECT_EQ(cache.size(), 3U);
}

TEST(GrammarCache, KeepsWhatWasUsedLast) {
  GrammarCache cache;
  const auto first = cache.make(regex("first"));
  for (int i = 0; i < 200; ++i) {
    cache.make(regex(fmt::format("a{}", i)));
    EXPECT_EQ(cache.find(regex("first")), first);
  }
  EXPECT_EQ(cache.find(regex("a0")), nullptr);
  EXPECT_NE(cache.find(regex("a199")), nullptr);
  EXPECT_LE(cache.size(), 64U);
}

TEST(GrammarCache, IsBoundedInSize) {
  const std::size_t each = GrammarCache().make(regex("[ab]{500}0"))->bytes();
  EXPECT_GT(each, 10000U);
  GrammarCache cache(64, each * 7 / 2);
  for (int i = 0; i < 9; ++i) cache.make(regex(fmt::format("[ab]{{500}}{}", i)));
  EXPECT_EQ(cache.size(), 3U);
  EXPECT_NE(cache.find(regex("[ab]{500}8")), nullptr);
  // One that is larger than all may be is the only one.
  EXPECT_NE(cache.make(regex("[ab]{5000}")), nullptr);
  EXPECT_EQ(cache.size(), 1U);
}

TEST(GrammarCache, KeepsNoFailures) {
  GrammarCache cache;
  for (int i = 0; i < 2; ++i) EXPECT_THROW(cache.make(regex("(")), Error);
  EXPECT_EQ(cache.size(), 0U);
}

}  // namespace
}  // namespace metal_marlin::server
