#include "grammar/gbnf.h"

#include <gtest/gtest.h>

#include "grammar/grammar_testing.h"

namespace metal_marlin {
namespace {

std::shared_ptr<const Grammar> gbnf(const std::string& text) {
  return Grammar::from_gbnf(text, "g");
}

TEST(Gbnf, TakesWhatLlamaCppDocuments) {
  expect_texts(*gbnf("root ::= \"a\" root \"b\" | \"c\""), {"c", "acb", "aacbb"}, {"", "ab", "acbb", "cc"});
  expect_texts(*gbnf("# a comment\nroot ::= (\n  \"x\" # another\n  | item-2\n)+\nitem-2 ::= [0-9a-fé] \"\\n\"?\n"),
               {"x", "xx7", "é\nx", "f\nf"}, {"", "g", "\n", "x\n"});
  expect_texts(*gbnf(R"(root ::= [^a-c"\]\n] "\"\\\x41\u00e9\U0001F600")"), {"d\"\\Aé😀", "€\"\\Aé😀"},
               {"a\"\\Aé😀", "]\"\\Aé😀", "\n\"\\Aé😀"});
  expect_texts(*gbnf("root ::= \"a\"{2} \"b\"{1,} \"c\"{,2} \"d\"{0,1} ."), {"aabx", "aabbccd€", "aabdd"},
               {"abx", "aax", "aab", "aabcccx"});
  expect_texts(*gbnf("root ::= [a-]* \"-\"? \"\"\n"), {"", "a-a", "--"}, {"b"});
  expect_texts(*gbnf("root ::= \"a\"\n  | \"b\"\n"), {"a", "b"}, {"ab"});
}

TEST(Gbnf, RefusesByLineAndName) {
  const std::vector<std::pair<std::string, std::string>> cases{
      {"a ::= \"x\"", "no rule of the name root"},
      {"root ::= missing", "missing is used and not defined"},
      {"root ::= \"a\"\n\nroot ::= \"b\"", "line 3: the rule root is defined twice"},
      {"root ::= root \"a\" | \"b\"", "the rule root comes back to itself"},
      {"root ::= x? root | \"b\"\nx ::= \"y\"*", "left recursion"},
      {"root ::= a\na ::= b\nb ::= a | \"x\"", "left recursion"},
      {"root ::= \"a\" root", "no text at all"},
      {"root ::= \"a", "a literal without an end"},
      {"root ::= [a", "a class without an end"},
      {"root ::= [b-a]", "a range whose end is below its start"},
      {"root ::= \"\\q\"", "an unknown escape"},
      {"root ::= \"\\ud800\"", "d800 is no character"},
      {"root ::= (\"a\"", "expected ')'"},
      {"root ::= \"a\"{3,2}", "a repeat of 3 to 2"},
      {"root ::= \"a\"{999999}", "a repeat of more than"},
      {"root ::= <[1]>", "tokens"},
      {"root = \"a\"", "expected ::="},
      {"root ::= \"\xff\"", "not UTF-8"},
  };
  for (const auto& [text, what] : cases) expect_refused([&] { gbnf(text); }, what);
  expect_refused([] { gbnf("root ::= " + std::string(1000, '(') + "\"a\"" + std::string(1000, ')')); }, "groups");
  expect_refused([] { gbnf("root ::= (((\"a\"{1000}){1000}){1000}){1000}"); }, "too large");
  expect_refused([] { gbnf("root ::= (\"a\" | \"b\")* \"a\" (\"a\" | \"b\"){30}"); }, "too large");
}

}  // namespace
}  // namespace metal_marlin
