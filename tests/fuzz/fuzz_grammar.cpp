// Arbitrary bytes as a grammar, of the kind that the first byte says, and a walk through it by the rest.
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "attempt.h"
#include "grammar/automaton.h"
#include "grammar/gbnf.h"
#include "grammar/guide.h"
#include "grammar/pattern.h"
#include "grammar/schema.h"
#include "metal_marlin/error.h"

namespace {

using namespace metal_marlin;

Rules rules_of(char kind, std::string_view text) {
  if (kind == 'g') return parse_gbnf(text, "input");
  Rules rules;
  const RuleId root = rules.declare("root");
  rules.set_root(root);
  rules.define(root, kind == 'r' ? parse_pattern(rules, text, "input") : parse_schema(rules, text, "input"));
  return rules;
}

// Every byte that a mask of single bytes allows is accepted, no other is, and there is no dead end.
void walk(const std::shared_ptr<const Automaton>& automaton, std::string_view choices) {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  TokenMasks masks(automaton, std::make_shared<TokenTiers>(tokens));
  GrammarMatcher matcher(automaton);
  for (const char choice : choices.substr(0, 64)) {
    TokenMask mask(masks.words());
    masks.add(matcher.stacks(), matcher.places(), mask);
    std::vector<TokenId> allowed;
    for (TokenId id = 0; id < 256; ++id) {
      if (has_token(mask, id)) allowed.push_back(id);
    }
    if (allowed.empty() && !matcher.is_complete()) __builtin_trap();
    if (allowed.empty()) return;
    const TokenId id = allowed[static_cast<unsigned char>(choice) % allowed.size()];
    if (!matcher.accept(tokens[static_cast<std::size_t>(id)])) __builtin_trap();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0 || size > 4096) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  attempt([&] {
    const Rules rules = rules_of(text[0], text.substr(1));
    walk(std::make_shared<Automaton>(rules, ByteSet().set()), text);
  });
  return 0;
}
