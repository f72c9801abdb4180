#include "grammar/token_masks.h"

#include <algorithm>
#include <limits>
#include <set>
#include <tuple>

#include "grammar/alike_states.h"

namespace metal_marlin {
namespace {

// What is kept between calls. What one call needs is a small multiple of the vocabulary.
constexpr std::size_t kMostPartBytes = std::size_t{32} << 20;
constexpr std::size_t kMostLocals = std::size_t{1} << 15;
constexpr std::size_t kFewNext = 8;
constexpr std::uint32_t kUnknown = std::numeric_limits<std::uint32_t>::max();
constexpr std::uint32_t kDead = 0;  // the local state of no place
// What is made ahead: tens of milliseconds.
constexpr std::size_t kMostNodesAhead = std::size_t{4} << 20;
constexpr std::size_t kMostStatesAhead = std::size_t{1} << 12;
// What is looked at of stacks: for one mask some tenths of a second, which only a grammar that is very ambiguous needs.
constexpr std::size_t kMostMaskWork = std::size_t{1} << 25;

}  // namespace

TokenMasks::TokenMasks(std::shared_ptr<const Automaton> automaton, std::shared_ptr<const TokenTiers> tiers)
    : automaton_(std::move(automaton)),
      tiers_(std::move(tiers)),
      alike_(alike_states(*automaton_, TokenTiers::kMostBytes)) {
  forget();
}

void TokenMasks::forget() {
  parts_.clear();
  lists_.clear();
  list_by_id_.clear();
  local_ids_.clear();
  locals_.clear();
  stacks_ = Stacks();
  part_bytes_ = 0;
  local({});
  for (std::size_t tier = 0; tier < tiers_->tries().size(); ++tier) list_of({tier, {TokenTrie::kRoot}});
}

TokenMasks::ListId TokenMasks::list_of(List list) {
  const auto [found, is_new] = lists_.try_emplace(std::move(list), static_cast<ListId>(list_by_id_.size()));
  if (is_new) {
    list_by_id_.push_back(&found->first);
    part_bytes_ += found->first.second.size() * sizeof(TokenTrie::Node);
  }
  return found->second;
}

TokenMasks::LocalId TokenMasks::local(Places places) {
  std::vector<std::uint64_t> key;
  if (!places.is_dead()) {
    for (const Position& p : places.kernel) key.push_back(std::uint64_t{p.state} << 32 | p.stack);
  }
  const auto [found, is_new] = local_ids_.try_emplace(std::move(key), static_cast<LocalId>(locals_.size()));
  if (is_new) locals_.push_back({std::move(places), {}, {}});
  return found->second;
}

TokenMasks::LocalId TokenMasks::step(LocalId from, std::uint8_t byte) {
  const LocalState& known = locals_[from];
  if (!known.next.empty()) {
    if (known.next[byte] != kUnknown) return known.next[byte];
  } else {
    for (const auto& [of, target] : known.few_next) {
      if (of == byte) return target;
    }
  }
  const LocalId target = local(step_places(*automaton_, stacks_, known.places, byte));
  LocalState& state = locals_[from];  // which may have moved
  if (state.next.empty() && state.few_next.size() < kFewNext) {
    state.few_next.emplace_back(byte, target);
    return target;
  }
  if (state.next.empty()) {
    state.next.assign(256, kUnknown);
    for (const auto& [of, to] : state.few_next) state.next[of] = to;
  }
  state.next[byte] = target;
  return target;
}

void TokenMasks::walk(const TokenTrie& trie, LocalId start, TokenTrie::Node from, std::vector<TokenId>& tokens,
                      std::vector<TokenTrie::Node>& rest) {
  const auto has_ended = [&](LocalId id, TokenTrie::Node node) {
    return locals_[id].places.at_bottom && trie.end(node) > node + 1;
  };
  if (has_ended(start, from)) rest.push_back(from);
  const std::uint32_t top = trie.depth(from);
  std::vector<LocalId> path(trie.deepest() - top + 1);
  path[0] = start;
  for (TokenTrie::Node node = from + 1; node < trie.end(from);) {
    const std::uint32_t depth = trie.depth(node) - top;
    ++walked_;
    const LocalId id = step(path[depth - 1], trie.byte(node));
    if (id == kDead) {
      node = trie.end(node);
      continue;
    }
    path[depth] = id;
    const std::span<const TokenId> here = trie.tokens(node);
    tokens.insert(tokens.end(), here.begin(), here.end());
    if (has_ended(id, node)) rest.push_back(node);
    ++node;
  }
}

TokenMasks::Part TokenMasks::find_part(StateId state, ListId list) {
  const LocalId start = local(close_places(*automaton_, stacks_, {{state, Stacks::kBottom}}));
  Part out;
  std::vector<TokenTrie::Node> rest;
  const auto& [tier, nodes] = *list_by_id_[list];
  for (const TokenTrie::Node node : nodes) walk(tiers_->tries()[tier], start, node, out.few, rest);
  if (out.few.size() * sizeof(TokenId) > words() * sizeof(std::uint64_t)) {
    out.many.resize(words());
    for (const TokenId id : out.few) add_token(out.many, id);
    out.few.clear();
  }
  out.few.shrink_to_fit();
  out.rest = list_of({tier, std::move(rest)});
  return out;
}

const TokenMasks::Part& TokenMasks::part(StateId state, ListId list) {
  const std::size_t tier = list_by_id_[list]->first;
  if (tier < alike_.size()) state = alike_[tier][state];
  const std::uint64_t key = std::uint64_t{state} << 32 | list;
  const auto found = parts_.find(key);
  if (found != parts_.end()) return found->second;
  const Part& out = parts_.emplace(key, find_part(state, list)).first->second;
  part_bytes_ += sizeof(Part) + out.few.size() * sizeof(TokenId) + out.many.size() * sizeof(std::uint64_t);
  return out;
}

void TokenMasks::add(const Stacks& stacks, const Places& places, std::span<std::uint64_t> mask) {
  const std::lock_guard lock(mutex_);
  if (part_bytes_ > kMostPartBytes || locals_.size() > kMostLocals || stacks_.frame_count() > Stacks::kMostFrames / 2)
    forget();
  stacks_.begin_work(kMostMaskWork);
  std::set<std::tuple<StateId, StackId, ListId>> known;
  std::vector<std::tuple<StateId, StackId, ListId>> open;
  const auto visit = [&](StateId state, StackId stack, ListId list) {
    if (known.emplace(state, stack, list).second) open.emplace_back(state, stack, list);
  };
  for (const Position& position : places.kernel) {
    for (ListId tier = 0; tier < tiers_->tries().size(); ++tier) visit(position.state, position.stack, tier);
  }
  while (!open.empty()) {
    const auto [state, stack, list] = open.back();
    open.pop_back();
    const Part& found = part(state, list);
    for (const TokenId id : found.few) add_token(mask, id);
    for (std::size_t i = 0; i < found.many.size(); ++i) mask[i] |= found.many[i];
    if (list_by_id_[found.rest]->second.empty()) continue;
    stacks_.work(stacks.frames(stack).size());
    for (const Stacks::Frame& frame : stacks.frames(stack)) {
      if (frame.back != kNoState) visit(frame.back, frame.below, found.rest);
    }
  }
}

// Those that a text can be in right behind a byte, the ones near the beginning first.
std::vector<StateId> TokenMasks::states_by_need() const {
  std::vector<StateId> open{automaton_->start()};
  std::vector<bool> is_known(automaton_->size());
  std::vector<bool> is_behind_byte(automaton_->size());
  is_known[automaton_->start()] = is_behind_byte[automaton_->start()] = true;
  for (std::size_t i = 0; i < open.size(); ++i) {
    const auto reach = [&](StateId id) {
      if (!is_known[id]) open.push_back(id);
      is_known[id] = true;
    };
    const Automaton::State& state = automaton_->state(open[i]);
    for (const auto& edge : state.edges) {
      reach(edge.target);
      is_behind_byte[edge.target] = true;
    }
    for (const auto& call : state.calls) {
      reach(call.start);
      reach(call.back);
    }
  }
  std::erase_if(open, [&](StateId id) { return !is_behind_byte[id]; });
  return open;
}

void TokenMasks::make_ahead() {
  const std::vector<StateId> states = states_by_need();
  const std::lock_guard lock(mutex_);
  const std::size_t most = walked_ + kMostNodesAhead;
  stacks_.begin_work(2 * kMostMaskWork);
  for (std::size_t i = 0; i < std::min(states.size(), kMostStatesAhead); ++i) {
    for (ListId tier = 0; tier < tiers_->tries().size(); ++tier) {
      if (walked_ > most || part_bytes_ > kMostPartBytes / 2 || stacks_.work_left() < kMostMaskWork) return;
      part(states[i], tier);
    }
  }
}

}  // namespace metal_marlin
