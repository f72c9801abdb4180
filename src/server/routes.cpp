#include "server/routes.h"

#include <fmt/format.h>

#include <array>

#include "server/api_error.h"

namespace metal_marlin::server {
namespace {

constexpr std::array<Route, 22> kRoutes = {{{"POST", "/v1/completions", false, answer_completions},
                                            {"POST", "/v1/chat/completions", false, answer_chat_completions},
                                            {"POST", "/v1/responses", false, answer_responses},
                                            {"POST", "/v1/embeddings", false, answer_embeddings},
                                            {"POST", "/v1/rerank", false, answer_rerank},
                                            {"POST", "/rerank", false, answer_rerank},
                                            {"POST", "/v1/messages", false, answer_messages},
                                            {"POST", "/v1/messages/count_tokens", false, answer_count_tokens},
                                            {"GET", "/v1/models", false, answer_models},
                                            {"GET", "/v1/models/", false, answer_model},
                                            {"POST", "/tokenize", false, answer_tokenize},
                                            {"POST", "/detokenize", false, answer_detokenize},
                                            {"POST", "/apply-template", false, answer_apply_template},
                                            {"GET", "/health", true, answer_health},
                                            {"GET", "/ready", true, answer_ready},
                                            {"GET", "/version", false, answer_version},
                                            {"GET", "/metrics", false, answer_metrics},
                                            {"GET", "/slots", false, answer_slots},
                                            {"POST", "/slots/", false, answer_slot},
                                            {"GET", "/openapi.json", false, answer_openapi},
                                            {"GET", "/", true, answer_page},  // it asks for the key itself
                                            {"GET", "/page/", true, answer_page}}};

bool matches(const Route& route, std::string_view path) {
  const std::string_view own = route.path;
  return own.size() > 1 && own.ends_with('/') ? path.size() > own.size() && path.starts_with(own) : path == own;
}

}  // namespace

void refuse_while_draining(const Service& service) {
  if (service.draining) throw ApiError(503, "the server is shutting down", {}, "shutting_down");
}

std::span<const Route> all_routes() {
  return kRoutes;
}

const Route& find_route(const std::string& method, const std::string& path) {
  const Route* other = nullptr;
  for (const Route& route : kRoutes) {
    if (!matches(route, path)) continue;
    if (method == route.method || (method == "HEAD" && route.method == std::string_view("GET"))) return route;
    other = &route;
  }
  if (other == nullptr) throw ApiError(404, fmt::format("there is nothing at {}", path), {}, "not_found");
  throw ApiError(405, fmt::format("{} takes {}, not {}", path, other->method, method), {}, "method_not_allowed");
}

std::string allowed_methods(const std::string& path) {
  std::string methods;
  for (const Route& route : kRoutes) {
    if (!matches(route, path)) continue;
    methods += methods.empty() ? "" : ", ";
    methods += route.method == std::string_view("GET") ? "GET, HEAD" : route.method;
  }
  return methods;
}

}  // namespace metal_marlin::server
