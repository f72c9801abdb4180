// Which function answers which request.
#pragma once

#include <span>

#include "server/service.h"

namespace metal_marlin::server {

struct Route {
  const char* method;
  const char* path;  // one that ends with "/" stands for all that begin with it, "/" for itself
  bool open;         // without an API key
  AnswerRoute answer;
};

std::span<const Route> all_routes();
// \throws ApiError (404, 405). HEAD is answered as GET is.
const Route& find_route(const std::string& method, const std::string& path);
// For the Allow header of a 405.
std::string allowed_methods(const std::string& path);

// \throws ApiError (503): what is new is not taken any more.
void refuse_while_draining(const Service& service);

// completions.cpp
void answer_completions(Service& service, const Call& call);
void answer_chat_completions(Service& service, const Call& call);
// responses.cpp
void answer_responses(Service& service, const Call& call);
// embeddings.cpp
void answer_embeddings(Service& service, const Call& call);
// rerank.cpp
void answer_rerank(Service& service, const Call& call);
// messages.cpp
void answer_messages(Service& service, const Call& call);
void answer_count_tokens(Service& service, const Call& call);
// text_routes.cpp
void answer_tokenize(Service& service, const Call& call);
void answer_detokenize(Service& service, const Call& call);
void answer_apply_template(Service& service, const Call& call);
// status_routes.cpp
void answer_models(Service& service, const Call& call);
void answer_model(Service& service, const Call& call);
void answer_health(Service& service, const Call& call);
void answer_ready(Service& service, const Call& call);
void answer_version(Service& service, const Call& call);
void answer_metrics(Service& service, const Call& call);
void answer_page(Service& service, const Call& call);
// slots.cpp
void answer_slots(Service& service, const Call& call);
void answer_slot(Service& service, const Call& call);
// openapi.cpp
void answer_openapi(Service& service, const Call& call);

}  // namespace metal_marlin::server
