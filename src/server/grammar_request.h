// From what a request says of its answer to the grammar that the engine is given.
#pragma once

#include <optional>

#include "server/grammar_fields.h"
#include "server/service.h"

namespace metal_marlin::server {

// Adds to `request` what was asked for. Compiling has its turn, so that it never takes all handlers.
// \returns false where `answer` is called again, with its turn. \throws ApiError (400) naming the field.
bool add_grammar(Service& service, const Call& call, const ServedModel& model, const std::optional<GrammarText>& asked,
                 AnswerRoute answer, EngineRequest& request);

}  // namespace metal_marlin::server
