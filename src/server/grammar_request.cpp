#include "server/grammar_request.h"

#include "server/api_error.h"

namespace metal_marlin::server {

bool add_grammar(Service& service, const Call& call, const ServedModel& model, const std::optional<GrammarText>& asked,
                 AnswerRoute answer, EngineRequest& request) {
  if (!asked) return true;
  request.grammar = service.grammars.find(*asked);
  if (!request.grammar && !call.has_turn) {
    service.take_turn(call, answer);
    return false;
  }
  try {
    if (!request.grammar) request.grammar = service.grammars.make(*asked);
    model.engine->prepare(request.grammar, request.tokenizer);
  } catch (const Error& error) {
    const std::string said = error.what();
    const bool is_named = said.starts_with(asked->field);
    ApiError refused = to_api_error(Error(error.code(), is_named ? said : asked->field + ": " + said), asked->field);
    if (refused.status == 400) refused.code = "invalid_grammar";
    throw refused;
  }
  return true;
}

}  // namespace metal_marlin::server
