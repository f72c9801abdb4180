// An end to thoughts that take too long.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "server/service.h"

namespace metal_marlin::server {

// One answer whose thought has a budget of tokens. A thought that comes to its end is closed in the model's place, and
// the answer goes on behind it; an answer that was begun by then goes on as it is.
class ThoughtBudget {
 public:
  // The model's thoughts stand between tags. \param request for the whole answer.
  ThoughtBudget(const ServedModel& model, EngineRequest request, int budget);

  // What is asked for at first.
  [[nodiscard]] EngineRequest first() const;
  // Tokens that came.
  void add(std::span<const TokenId> tokens) { tokens_.insert(tokens_.end(), tokens.begin(), tokens.end()); }
  struct More {
    EngineRequest request;
    std::string closing;  // what the answer's text goes on with; empty: it was in no thought
  };
  // Asked when what was asked for has come. None: the answer has ended.
  std::optional<More> go_on(bool in_thought);

 private:
  void limit(EngineRequest& request) const;

  const ServedModel& model_;
  EngineRequest request_;
  int budget_;
  std::vector<TokenId> tokens_;
  bool was_cut_ = false;
};

}  // namespace metal_marlin::server
