#include "server/reasoning.h"

#include <gtest/gtest.h>

namespace metal_marlin::server {
namespace {

const ReasoningTags kTags = {"<think>", "</think>"};

// All that a splitter makes of a text in pieces of `size` bytes.
ReasoningSplitter::Parts split(const std::string& text, std::size_t size, bool inside) {
  ReasoningSplitter splitter(kTags, inside);
  ReasoningSplitter::Parts all;
  const auto add = [&](const ReasoningSplitter::Parts& parts) {
    all.reasoning += parts.reasoning;
    all.content += parts.content;
  };
  for (std::size_t i = 0; i < text.size(); i += size) add(splitter.push(text.substr(i, size)));
  add(splitter.finish());
  return all;
}

void expect_split(const std::string& text, bool inside, const std::string& reasoning, const std::string& content) {
  for (std::size_t size = 1; size <= text.size(); ++size) {
    const auto parts = split(text, size, inside);
    EXPECT_EQ(parts.reasoning, reasoning) << text << " in pieces of " << size;
    EXPECT_EQ(parts.content, content) << text << " in pieces of " << size;
  }
}

TEST(ReasoningSplitter, PartsThoughtsFromTheRest) {
  expect_split("<think>\nIt is\n\n4.\n</think>\n\nFour.\n", false, "It is\n\n4.", "Four.\n");
  expect_split("\n <think>a</think>b", false, "a", "b");
  expect_split("a < b</think>c", true, "a < b", "c");
  expect_split("</think>c", true, "", "c");
  expect_split("a</thin", true, "a</thin", "");
  expect_split("a\n", true, "a\n", "");
  expect_split("no <think>thought</think>", false, "", "no <think>thought</think>");
  expect_split("<thin", false, "", "<thin");
  expect_split("a</think>b<think>c</think>", true, "a", "b<think>c</think>");
}

TEST(ReasoningSplitter, GivesOutWhatIsCertain) {
  ReasoningSplitter splitter(kTags, true);
  EXPECT_TRUE(splitter.inside());
  EXPECT_EQ(splitter.push("so</").reasoning, "so");
  EXPECT_EQ(splitter.push("b").reasoning, "</b");
  EXPECT_EQ(splitter.push("</think>x").content, "x");
  EXPECT_FALSE(splitter.inside());
  ReasoningSplitter plain(std::nullopt, false);
  EXPECT_EQ(plain.push("<think>").content, "<think>");
}

TEST(ReasoningTags, AreThoseOfTheTemplate) {
  EXPECT_EQ(find_reasoning_tags("... {{ '</think>' }}")->open, "<think>");
  EXPECT_EQ(find_reasoning_tags("[/THINK]")->open, "[THINK]");
  EXPECT_FALSE(find_reasoning_tags("<|im_start|>"));
}

TEST(ReasoningTags, TellWhetherAPromptEndsInAThought) {
  EXPECT_TRUE(ends_in_thought("user <think>x</think> assistant<think>\n", kTags, false));
  EXPECT_FALSE(ends_in_thought("assistant<think>\n\n</think>\n\n", kTags, false));
  EXPECT_FALSE(ends_in_thought("what is <think>? assistant", kTags, false));
  EXPECT_TRUE(ends_in_thought("assistant<think>so far", kTags, true));
  EXPECT_FALSE(ends_in_thought("assistant<think>so</think> far", kTags, true));
  EXPECT_FALSE(ends_in_thought("assistant", kTags, false));
}

}  // namespace
}  // namespace metal_marlin::server
