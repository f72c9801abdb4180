// Which tokens may follow where a text has come to in a grammar.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/stacks.h"
#include "grammar/token_trie.h"

namespace metal_marlin {

// A bit a token.
using TokenMask = std::vector<std::uint64_t>;

inline bool has_token(std::span<const std::uint64_t> mask, TokenId id) {
  return (mask[static_cast<std::size_t>(id) / 64] >> (static_cast<std::size_t>(id) % 64) & 1) != 0;
}
inline void add_token(std::span<std::uint64_t> mask, TokenId id) {
  mask[static_cast<std::size_t>(id) / 64] |= std::uint64_t{1} << (static_cast<std::size_t>(id) % 64);
}

// What tokens do from each state of an automaton while they stay within the state's rule is found once, and shared by
// all texts. Usable from many threads at once.
class TokenMasks {
 public:
  // The automaton is made for the tokens' single bytes.
  TokenMasks(std::shared_ptr<const Automaton> automaton, std::shared_ptr<const TokenTiers> tiers);

  [[nodiscard]] const Automaton& automaton() const { return *automaton_; }
  [[nodiscard]] const TokenTiers& tiers() const { return *tiers_; }
  [[nodiscard]] std::size_t words() const { return (tiers_->token_count() + 63) / 64; }
  // Finds what it can before it is needed, from the beginning of the grammar on, within a bounded time.
  void make_ahead();
  // Adds the tokens that may follow.
  void add(const Stacks& stacks, const Places& places, std::span<std::uint64_t> mask);

 private:
  using ListId = std::uint32_t;  // of a tier's nodes from which tokens go on
  using List = std::pair<std::size_t, std::vector<TokenTrie::Node>>;
  // What may be read from a state on: tokens whose bytes behind a list's nodes stay in the state's rule and the rules
  // that it calls, and the nodes at which the rule has ended.
  struct Part {
    std::vector<TokenId> few;
    TokenMask many;  // instead of few
    ListId rest;
  };
  // Places that stacks over an unknown bottom come to, by the bytes between them.
  using LocalId = std::uint32_t;
  struct LocalState {
    Places places;
    std::vector<std::pair<std::uint8_t, LocalId>> few_next;
    std::vector<LocalId> next;  // by byte, where there are many
  };

  const Part& part(StateId state, ListId list);
  Part find_part(StateId state, ListId list);
  [[nodiscard]] std::vector<StateId> states_by_need() const;
  LocalId local(Places places);
  LocalId step(LocalId from, std::uint8_t byte);
  void walk(const TokenTrie& trie, LocalId start, TokenTrie::Node from, std::vector<TokenId>& tokens,
            std::vector<TokenTrie::Node>& rest);
  ListId list_of(List list);
  void forget();

  std::shared_ptr<const Automaton> automaton_;
  std::shared_ptr<const TokenTiers> tiers_;
  std::vector<std::vector<StateId>> alike_;  // by tier but the last and state: which has the same parts
  std::mutex mutex_;
  std::map<List, ListId> lists_;  // whole tokens of each tier come first
  std::vector<const List*> list_by_id_;
  std::unordered_map<std::uint64_t, Part> parts_;  // by state and list
  std::size_t part_bytes_ = 0;
  std::size_t walked_ = 0;  // nodes, so far
  Stacks stacks_;
  std::map<std::vector<std::uint64_t>, LocalId> local_ids_;
  std::vector<LocalState> locals_;
};

}  // namespace metal_marlin
