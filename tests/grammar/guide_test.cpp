#include "grammar/guide.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "grammar/gbnf.h"
#include "grammar/grammar_testing.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

using Random = std::mt19937;

unsigned below(Random& random, std::size_t count) {
  return static_cast<unsigned>(random() % count);
}

// ---- a reference: where expressions may end, found by trying all -------------

class Reference {
 public:
  Reference(const Rules& rules, std::string text) : rules_(rules), text_(std::move(text)) {}
  bool matches() { return ends(rules_.definition(rules_.root()), 0).contains(text_.size()); }

 private:
  using Ends = std::set<std::size_t>;
  Ends after(const Ends& begins, ExpressionId id) {
    Ends out;
    for (const std::size_t begin : begins) out.merge(ends(id, begin));
    return out;
  }
  Ends ends(ExpressionId id, std::size_t at) {
    const auto known = known_.find({id, at});
    if (known != known_.end()) return known->second;
    known_[{id, at}] = {};  // where a rule without a text comes back to itself
    return known_[{id, at}] = find_ends(id, at);
  }
  Ends find_ends(ExpressionId id, std::size_t at) {
    const Expression& e = rules_.expression(id);
    switch (e.kind) {
      case ExpressionKind::kBytes:
        return text_.compare(at, e.bytes.size(), e.bytes) == 0 ? Ends{at + e.bytes.size()} : Ends{};
      case ExpressionKind::kRule: return ends(rules_.definition(e.rule), at);
      case ExpressionKind::kAlternatives: {
        Ends out;
        for (const ExpressionId part : e.parts) out.merge(ends(part, at));
        return out;
      }
      case ExpressionKind::kSequence: {
        Ends out{at};
        for (const ExpressionId part : e.parts) out = after(out, part);
        return out;
      }
      case ExpressionKind::kRepeat: {
        Ends out{at};
        for (int i = 0; i < e.least; ++i) out = after(out, e.parts[0]);
        for (int i = e.least; i < e.most.value_or(e.least + static_cast<int>(text_.size()) + 1); ++i)
          out.merge(after(out, e.parts[0]));
        return out;
      }
      case ExpressionKind::kAutomaton: throw std::logic_error("no front end of these tests makes one");
      case ExpressionKind::kCharacters: break;
    }
    for (const ByteSequence& sequence : e.characters) {
      std::size_t i = 0;
      while (i < sequence.size() && at + i < text_.size() &&
             sequence[i].low <= static_cast<std::uint8_t>(text_[at + i]) &&
             static_cast<std::uint8_t>(text_[at + i]) <= sequence[i].high)
        ++i;
      if (i == sequence.size()) return {at + i};
    }
    return {};
  }
  const Rules& rules_;
  std::string text_;
  std::map<std::pair<ExpressionId, std::size_t>, Ends> known_;
};

std::string random_expression(Random& random, int depth) {
  const auto pick = [&](unsigned count) { return static_cast<int>(below(random, count)); };
  switch (pick(depth > 2 ? 4 : 9)) {
    case 0: return "\"a\"";
    case 1: return pick(2) == 0 ? "\"b\"" : "\"aé\"";
    case 2: return pick(2) == 0 ? "[a-bé]" : "[^a]";
    case 3: return fmt::format("r{}", pick(4));
    case 4: return "(" + random_expression(random, depth + 1) + " | " + random_expression(random, depth + 1) + ")";
    case 5: return "(" + random_expression(random, depth + 1) + ")" + "?*+"[pick(3)];
    case 6: return fmt::format("({}){{{},{}}}", random_expression(random, depth + 1), pick(2), 1 + pick(3));
    default: return random_expression(random, depth + 1) + " " + random_expression(random, depth + 1);
  }
}

// None where the rules have no text or are left-recursive.
std::optional<Rules> random_rules(Random& random) {
  std::string text = "root ::= " + random_expression(random, 0) + " r0\n";
  for (int i = 0; i < 4; ++i)
    text += fmt::format("r{} ::= \"a\" {} | {}\n", i, random_expression(random, 1), random_expression(random, 0));
  Rules rules = parse_gbnf(text, "random");
  try {
    const Automaton automaton(rules, ByteSet().set());
  } catch (const Error&) {
    return std::nullopt;
  }
  return rules;
}

TEST(GrammarMatcher, AgreesWithTryingAll) {
  Random random(7);
  const std::vector<std::string> characters{"a", "b", "é", "€"};
  int grammars = 0;
  int found = 0;
  while (grammars < 100) {
    const auto rules = random_rules(random);
    if (!rules) continue;
    ++grammars;
    const auto automaton = std::make_shared<Automaton>(*rules, ByteSet().set());
    for (int i = 0; i < 40; ++i) {
      std::string text;
      for (unsigned k = below(random, 7); k > 0; --k) text += characters[below(random, (i % 2 == 0 ? 2 : 4))];
      GrammarMatcher matcher(automaton);
      const bool expected = Reference(*rules, text).matches();
      found += expected ? 1 : 0;
      ASSERT_EQ(matcher.accept(text) && matcher.is_complete(), expected) << text;
    }
  }
  EXPECT_GT(found, 100);
}

// The tokens that may follow: those that the text goes on with, each tried alone, which the masks must say too.
void find_possible(TokenMasks& masks, const GrammarMatcher& matcher, const std::vector<std::string>& tokens,
                   std::vector<std::size_t>& possible) {
  TokenMask mask(masks.words());
  masks.add(matcher.stacks(), matcher.places(), mask);
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    GrammarMatcher copy = matcher;
    const bool expected = !tokens[id].empty() && copy.accept(tokens[id]);
    ASSERT_EQ(has_token(mask, static_cast<TokenId>(id)), expected) << tokens[id];
    if (expected) possible.push_back(id);
  }
}

// Tokens that cross characters, begin and end within them, and cannot be at all.
TEST(TokenMasks, AreWhatEachTokenTriedAloneSays) {
  Random random(11);
  const std::string bytes = "aab\xC3\xA9\xE2\x82\xAC";
  int grammars = 0;
  int allowed = 0;
  while (grammars < 120) {
    const auto rules = random_rules(random);
    if (!rules) continue;
    ++grammars;
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    for (int i = 0; i < 120; ++i) {
      std::string token;
      for (unsigned k = below(random, 6); k > 0; --k) token += bytes[below(random, bytes.size())];
      tokens.push_back(token);
    }
    const auto automaton = std::make_shared<Automaton>(*rules, ByteSet().set());
    TokenMasks masks(automaton, std::make_shared<TokenTiers>(tokens));
    GrammarMatcher matcher(automaton);
    for (int step = 0; step < 12; ++step) {
      SCOPED_TRACE(step);
      std::vector<std::size_t> possible;
      ASSERT_NO_FATAL_FAILURE(find_possible(masks, matcher, tokens, possible));
      allowed += static_cast<int>(possible.size());
      ASSERT_TRUE(!possible.empty() || matcher.is_complete()) << "a dead end";
      if (possible.empty()) break;
      ASSERT_TRUE(matcher.accept(tokens[possible[below(random, possible.size())]]));
    }
  }
  EXPECT_GT(allowed, 2000);
}

// Tokens of all lengths, in grammars that count: most places are alike for the short ones, and not near the ends.
TEST(TokenMasks, CountAsEachTokenTriedAloneDoes) {
  Random random(5);
  std::vector<std::string> tokens{"a", "b", ",", "\xC3", "\xA9"};
  for (std::size_t i = 0; i < 120; ++i) {
    std::string token(i < 50 ? i : 0, 'a');
    const std::vector<std::string> pieces{"a", "a", "a", "é", i % 3 == 0 ? "," : "a"};
    while (token.size() < i * 7 % 50) token += pieces[below(random, 5)];
    tokens.push_back(i % 5 == 0 ? token + "b" : token);
  }
  const auto tiers = std::make_shared<TokenTiers>(tokens);
  int allowed = 0;
  for (const char* const text :
       {"root ::= x{2,90} \"b\"\nx ::= \"a\" | \"é\"", "root ::= (\"a\" | \"é\"){30,60} \"b\"?",
        "root ::= (y \",\"){3,9}\ny ::= \"a\"{0,17}", "root ::= z{1,6}\nz ::= \"a\"? \"é\"? \"b\"?",
        "root ::= w \"b\"\nw ::= \"a\" w{0,1} \",\"{0,1}"}) {
    SCOPED_TRACE(text);
    const auto automaton = std::make_shared<Automaton>(parse_gbnf(text, "g"), ByteSet().set());
    TokenMasks masks(automaton, tiers);
    for (int run = 0; run < 2; ++run) {
      if (run == 1) masks.make_ahead();
      GrammarMatcher matcher(automaton);
      for (int step = 0; step < 10; ++step) {
        SCOPED_TRACE(step);
        std::vector<std::size_t> possible;
        ASSERT_NO_FATAL_FAILURE(find_possible(masks, matcher, tokens, possible));
        allowed += static_cast<int>(possible.size());
        if (possible.empty()) break;
        ASSERT_TRUE(matcher.accept(tokens[possible[below(random, static_cast<unsigned>(possible.size()))]]));
      }
    }
  }
  EXPECT_GT(allowed, 1000);
}

TEST(TokenTrie, FindsTokensByTheirBytes) {
  const std::vector<std::string> tokens{"b", "", "ab", "a", "ab", "abc"};
  const TokenTrie trie(tokens, 1, 3);
  EXPECT_EQ(trie.size(), 5U);
  const auto ab = trie.find("ab");
  EXPECT_EQ(std::vector<TokenId>(trie.tokens(ab).begin(), trie.tokens(ab).end()), (std::vector<TokenId>{2, 4}));
  EXPECT_EQ(trie.end(ab), ab + 2);
  EXPECT_EQ(trie.find("ac"), trie.size());
  EXPECT_EQ(TokenTrie(tokens, 2, 2).size(), 3U);
  const TokenTiers tiers(tokens);
  EXPECT_EQ(tiers.single_bytes().count(), 2U);
  EXPECT_EQ(tiers.tries().front().size(), trie.size());
  EXPECT_EQ(tiers.tries().back().size(), 1U);
}

// Ambiguous texts, of which there are exponentially many readings.
TEST(GrammarMatcher, AmbiguityCostsLittle) {
  const auto automaton = std::make_shared<Automaton>(
      parse_gbnf("root ::= s\ns ::= \"a\" s \"x\" | \"a\" t \"y\" | \"c\"\nt ::= \"a\" t \"x\" | \"a\" s \"y\" | \"c\"",
                 "g"),
      ByteSet().set());
  GrammarMatcher matcher(automaton);
  for (int i = 0; i < 2000; ++i) ASSERT_TRUE(matcher.accept("a"));
  EXPECT_LE(matcher.places().reading.size(), 8U);
  ASSERT_TRUE(matcher.accept("c"));
  for (int i = 0; i < 2000; ++i) ASSERT_TRUE(matcher.accept(i % 3 == 0 ? "x" : "y"));
  EXPECT_TRUE(matcher.is_complete());
}

// Repeats of what may be empty, of which any number may stand for any part of the text: few are read, many are an error
// soon, not a server that hangs.
TEST(GrammarMatcher, RepeatsOfWhatMayBeEmptyAreReadOrRefused) {
  const auto matcher_of = [](int times) {
    const std::string text = fmt::format("root ::= x{{0,{}}} \"!\"\nx ::= y* | \"b\"*\ny ::= \"a\" x?", times);
    return GrammarMatcher(std::make_shared<Automaton>(parse_gbnf(text, "g"), ByteSet().set()));
  };
  GrammarMatcher few = matcher_of(20);
  ASSERT_TRUE(few.accept("aaaabbbaabbaaaabbabababaaaa"));
  EXPECT_FALSE(few.accept("c"));
  ASSERT_TRUE(few.accept("!"));
  EXPECT_TRUE(few.is_complete());
  expect_refused([&] { matcher_of(5000).accept(std::string(3000, 'a')); }, "too ambiguous");
}

TEST(TokenMasks, OfGrammarsThatAreTooAmbiguousAreRefused) {
  const auto vocabulary = std::make_shared<GrammarVocabulary>(
      Tokenizer::from_json(R"({"model":{"type":"WordLevel","vocab":{"a":0,"aaaaaaaa":1,"<e>":2},"unk_token":"a"},
      "decoder":{"type":"Fuse"}})",
                           "t"),
      3);
  expect_refused(
      [&] {
        GrammarGuide guide(vocabulary, Grammar::from_gbnf("root ::= x{0,5000}\nx ::= y*\ny ::= \"a\" x?", "g"), {2},
                           {});
        for (int i = 0; i < 1000; ++i) {
          guide.allowed();
          guide.take(1);
        }
      },
      "too ambiguous");
}

// ---- with tokenizers ---------------------------------------------------------

std::shared_ptr<const Tokenizer> tokenizer_of(const std::string& name) {
  std::ifstream in(test_data("tokenizers/" + name));
  return Tokenizer::from_json(std::string(std::istreambuf_iterator<char>(in), {}), name);
}

TEST(GrammarGuide, TextsOfRandomTokensAreOfTheGrammar) {
  const auto grammar = Grammar::from_json_schema(
      R"({"type":"object","properties":{"name":{"type":"string","maxLength":12},"n":{"type":"integer","minimum":-7},
          "tags":{"type":"array","items":{"enum":["x","größe"]},"maxItems":4}},"required":["name","n","tags"],"additionalProperties":false})",
      "s");
  Random random(3);
  for (const char* const name : {"gpt2.json", "llama3.json", "qwen2.json", "sentencepiece.json"}) {
    SCOPED_TRACE(name);
    const auto tokenizer = tokenizer_of(name);
    const auto vocabulary = std::make_shared<GrammarVocabulary>(tokenizer, tokenizer->vocab_size() + 5);
    const std::vector<TokenId> ends{2};
    int ended = 0;
    for (int i = 0; i < 20; ++i) {
      GrammarGuide guide(vocabulary, grammar, ends, std::nullopt);
      Detokenizer detokenizer(tokenizer, true, std::vector<TokenId>{5});
      std::string text;
      for (int step = 0; step < 400 && !guide.has_ended(); ++step) {
        const auto mask = guide.allowed();
        std::vector<TokenId> possible;
        for (TokenId id = 0; id < tokenizer->vocab_size() + 5; ++id) {
          if (has_token(mask, id)) possible.push_back(id);
        }
        ASSERT_FALSE(possible.empty());
        EXPECT_EQ(has_token(mask, 2), grammar->matches(text));
        const TokenId id = possible[below(random, possible.size())];
        EXPECT_FALSE(tokenizer->is_special(id) && id != 2);
        if (id == 2) break;
        guide.take(id);
        text += detokenizer.push(id);
      }
      text += detokenizer.finish();
      ended += guide.has_ended() ? 1 : 0;
      if (!guide.has_ended()) continue;
      EXPECT_TRUE(grammar->matches(text)) << text;
      EXPECT_FALSE(nlohmann::json::parse(text, nullptr, false).is_discarded()) << text;
    }
    EXPECT_GT(ended, 0);
  }
}

// A vocabulary without a byte says what the others can.
TEST(GrammarVocabulary, LeavesOutWhatItsBytesCannotSay) {
  const char* const json = R"({"model":{"type":"WordLevel","vocab":{"a":0,"b":1,"abc":2,"<e>":3},"unk_token":"a"},
      "decoder":{"type":"Fuse"}})";
  const auto vocabulary = std::make_shared<GrammarVocabulary>(Tokenizer::from_json(json, "t"), 4);
  GrammarGuide guide(vocabulary, Grammar::from_regex("a(bc|b)|c"), {3}, std::nullopt);
  EXPECT_EQ(guide.allowed()[0], 1U);  // neither c nor abc, which a dead end would be beside
  guide.take(0);
  EXPECT_EQ(guide.allowed()[0], 2U);
  guide.take(1);
  EXPECT_TRUE(guide.has_ended());
  expect_refused([&] { vocabulary->masks(Grammar::from_regex("c")); }, "no text at all");
  expect_refused([&] { GrammarGuide(vocabulary, Grammar::from_choice(std::vector<std::string>{""}), {3}, {}); },
                 "empty");
}

TEST(GrammarVocabulary, DecodersThatLookAtOtherTokensAreRefused) {
  for (const char* const decoder :
       {R"({"type":"BPEDecoder"})", R"({"type":"CTC"})",
        R"({"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Metaspace","replacement":"_"}]})"}) {
    const std::string json =
        fmt::format(R"({{"model":{{"type":"WordLevel","vocab":{{"a":0}},"unk_token":"a"}},"decoder":{}}})", decoder);
    EXPECT_THROW(GrammarVocabulary(Tokenizer::from_json(json, "t"), 1), Error) << decoder;
  }
}

TEST(GrammarGuide, BeginsBehindAThought) {
  const char* const json = R"({"model":{"type":"WordLevel","vocab":{"<t>":0,"</t>":1,"x":2,"\n":3,"</t":4,">":5,">x":6,
      ">y":7,">\n":8,"y":9,"<e>":10},"unk_token":"y"},"decoder":{"type":"Fuse"}})";
  const auto vocabulary = std::make_shared<GrammarVocabulary>(Tokenizer::from_json(json, "t"), 11);
  const auto grammar = Grammar::from_regex("x+");
  const auto allowed = [](GrammarGuide& guide) {
    std::set<TokenId> out;
    for (TokenId id = 0; id < 11; ++id) {
      if (has_token(guide.allowed(), id)) out.insert(id);
    }
    return out;
  };
  const auto all_but = [](std::set<TokenId> without) {
    std::set<TokenId> out;
    for (TokenId id = 0; id < 11; ++id) {
      if (!without.contains(id)) out.insert(id);
    }
    return out;
  };
  GrammarGuide guide(vocabulary, grammar, {10}, GrammarThought{"<t>", "</t>", false});
  EXPECT_EQ(allowed(guide), (std::set<TokenId>{0, 2}));
  guide.take(0);
  EXPECT_EQ(allowed(guide), all_but({10}));
  guide.take(9);
  guide.take(4);
  EXPECT_EQ(allowed(guide), all_but({10, 7})) << "what closes the thought and goes on with no x";
  guide.take(6);
  EXPECT_EQ(allowed(guide), (std::set<TokenId>{2, 10}));
  for (const TokenId close : {1, 5, 8}) {
    GrammarGuide open(vocabulary, grammar, {10}, GrammarThought{"<t>", "</t>", true});
    if (close != 1) open.take(4);
    open.take(close);
    EXPECT_EQ(allowed(open), (std::set<TokenId>{2, 3}));
    open.take(3);
    EXPECT_EQ(allowed(open), (std::set<TokenId>{2}));
    open.take(2);
    EXPECT_EQ(allowed(open), (std::set<TokenId>{2, 10}));
  }
}

}  // namespace
}  // namespace metal_marlin
