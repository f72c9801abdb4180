#include "grammar/pattern.h"

#include <gtest/gtest.h>

#include "grammar/grammar_testing.h"

namespace metal_marlin {
namespace {

TEST(Pattern, MatchesTheWholeText) {
  expect_texts(*Grammar::from_regex(R"(a|b(?:cd)*|(?<n>[^\d\s-])\x21)"), {"a", "b", "bcdcd", "é!"},
               {"", "bc", "ab", "5!", " !", "-!"});
  expect_texts(*Grammar::from_regex(R"(^\d{2,3}-\w+\.?[\u{1F600}-\u{1F64F}]{0,1}$)"), {"12-a", "123-z_.😀"},
               {"1-a", "1234-a", "12-", "12-é"});
  expect_texts(*Grammar::from_regex("."), {"x", "€"}, {"\n", "", "xy"});
  expect_texts(*Grammar::from_regex(R"(\S\D\W[\b]\cA\t)"), {"aa!\b\x01\t"}, {"1a!\b\x01 ", " a!\b\x01\t"});
}

TEST(Pattern, RefusesByName) {
  const std::vector<std::pair<std::string, std::string>> cases{{"a(?=b)", "lookahead"},
                                                               {"(?!b)", "lookahead"},
                                                               {"(?<=b)", "lookbehind"},
                                                               {"(a)\\1", "a backreference"},
                                                               {"\\k<n>", "a backreference"},
                                                               {"a+?", "a lazy quantifier"},
                                                               {"a*+", "a possessive quantifier"},
                                                               {"\\bx", "a word's boundary"},
                                                               {"\\p{L}", "a Unicode property"},
                                                               {"a^b", "an anchor"},
                                                               {"(^a)", "an anchor"},
                                                               {"a$b", "$ before more"},
                                                               {"(?>a)", "an atomic group"},
                                                               {"(?i)a", "a group with options"},
                                                               {"(a", "without its ')'"},
                                                               {"a)", "an unmatched ')'"},
                                                               {"[a", "a class without an end"},
                                                               {"[b-a]", "a range"},
                                                               {"*a", "behind nothing"},
                                                               {"a{2,1}", "a repeat of 2 to 1"},
                                                               {"a{", "a '{'"},
                                                               {"\\q", "\\q"},
                                                               {"\\", "at the end"}};
  for (const auto& [pattern, what] : cases) expect_refused([&] { Grammar::from_regex(pattern); }, what);
}

TEST(Choice, HasTheseTexts) {
  const std::vector<std::string> texts{"yes", "no", "not \"now\""};
  expect_texts(*Grammar::from_choice(texts), texts, {"", "n", "yesno"});
  expect_refused([] { Grammar::from_choice(std::vector<std::string>{}); }, "no texts");
  expect_refused([] { Grammar::from_choice(std::vector<std::string>{"\x80"}); }, "not UTF-8");
}

}  // namespace
}  // namespace metal_marlin
