// Guesses by look-up: a text that repeats itself goes on as it did.
#pragma once

#include <unordered_map>

#include "runtime/proposer.h"

namespace metal_marlin {

// Where the last tokens of a text stood before. Adding a token takes constant time, and so does a look-up.
class NgramIndex {
 public:
  struct Match {
    std::size_t at = 0;      // what came behind it
    std::size_t length = 0;  // of the suffix that stands there too; 0: none of two tokens or more does
  };
  // Goes on to all of `tokens`, the first of which it has.
  void extend(std::span<const TokenId> tokens);
  // The longest suffix among the places that are looked at, and of these the last.
  [[nodiscard]] Match find();

 private:
  [[nodiscard]] std::size_t length_at(std::size_t at) const;

  std::vector<TokenId> tokens_;
  std::unordered_map<std::uint64_t, std::size_t> last_;  // by two tokens: behind where they stood last
  std::vector<std::size_t> before_;                      // by such a place: the one before it; 0: none
  Match found_;                                          // and how many tokens there were
  std::size_t found_size_ = 0;
};

class NgramProposer : public Proposer {
 public:
  [[nodiscard]] std::unique_ptr<Sequence> begin() override;
  void propose(std::span<Request> requests) override;
  [[nodiscard]] std::span<const double> expected() const override;
  [[nodiscard]] bool is_free() const override { return true; }
};

}  // namespace metal_marlin
