#include "grammar/intersection.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "grammar/rule_compiler.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr std::size_t kMostPairs = std::size_t{1} << 16;
constexpr std::size_t kMostPairEdges = std::size_t{1} << 20;

using Side = std::vector<RuleCompiler::State>;

Side compile(const Rules& rules, ExpressionId id) {
  const ByteSet all = ByteSet().set();
  Side out = RuleCompiler(rules, all).compile(id);
  if (std::any_of(out.begin(), out.end(), [](const auto& state) { return !state.calls.empty(); }))
    throw Error(ErrorCode::kInternal, "an intersection of what calls rules");
  return out;
}

// Pairs of states, by need.
class Product {
 public:
  Product(const Side& a, const Side& b) : a_(a), b_(b) { place_of({0, 0}); }

  std::vector<ByteState> make() {
    for (std::size_t i = 0; i < pairs_.size(); ++i) expand(pairs_[i]);
    return std::move(states_);
  }

 private:
  using Pair = std::pair<std::uint32_t, std::uint32_t>;

  std::uint32_t place_of(Pair pair) {
    const auto [found, is_new] = places_.try_emplace(pair, static_cast<std::uint32_t>(pairs_.size()));
    if (is_new) pairs_.push_back(pair);
    return found->second;
  }

  void expand(Pair pair) {
    const auto& a = a_[pair.first];
    const auto& b = b_[pair.second];
    ByteState out;
    out.accepts = a.accepts && b.accepts;
    // Both ascend.
    for (auto of_a = a.edges.begin(), of_b = b.edges.begin(); of_a != a.edges.end() && of_b != b.edges.end();) {
      const std::uint8_t low = std::max(of_a->low, of_b->low);
      const std::uint8_t high = std::min(of_a->high, of_b->high);
      if (low <= high) out.edges.push_back({low, high, place_of({of_a->target, of_b->target})});
      ++(of_a->high < of_b->high ? of_a : of_b);
    }
    edges_ += out.edges.size();
    states_.push_back(std::move(out));
    if (pairs_.size() > kMostPairs || edges_ > kMostPairEdges)
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("the grammar is too large: more than {} states of two patterns at once", kMostPairs));
  }

  const Side& a_;
  const Side& b_;
  std::map<Pair, std::uint32_t> places_;
  std::vector<Pair> pairs_;
  std::vector<ByteState> states_;
  std::size_t edges_ = 0;
};

}  // namespace

ExpressionId intersection(Rules& rules, ExpressionId a, ExpressionId b) {
  const Side of_a = compile(rules, a);
  const Side of_b = compile(rules, b);
  return rules.automaton(Product(of_a, of_b).make());
}

}  // namespace metal_marlin
