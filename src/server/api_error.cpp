#include "server/api_error.h"

#include "io/json.h"
#include "server/json_text.h"

namespace metal_marlin::server {
namespace {

const char* error_type(int status, bool is_message) {
  if (is_message && status == 413) return "request_too_large";
  if (is_message && status >= 500) return status == 503 ? "overloaded_error" : "api_error";
  switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

}  // namespace

bool is_message_path(std::string_view path) {
  constexpr std::string_view own = "/v1/messages";
  return path.starts_with(own) && (path.size() == own.size() || path[own.size()] == '/');
}

std::string error_body(const ApiError& error, std::string_view path, const std::string& request_id) {
  const bool is_message = is_message_path(path);
  const auto text_or_null = [](const std::string& text) { return text.empty() ? OrderedJson() : OrderedJson(text); };
  OrderedJson told = {{"message", error.what()},
                      {"type", error_type(error.status, is_message)},
                      {"param", text_or_null(error.param)},
                      {"code", text_or_null(error.code)}};
  // By which clients know that they must send whole conversations.
  if (is_message && error.param == "thread") told["details"] = {{"error_code", "thread_unsupported_request"}};
  if (!is_message) return json_text({{"error", told}});
  return json_text({{"type", "error"}, {"error", told}, {"request_id", text_or_null(request_id)}});
}

ApiError conflict(const std::string& message, const std::string& param) {
  return {400, message, param, "conflicting_parameters"};
}

ApiError to_api_error(const Error& error, const std::string& param) {
  switch (error.code()) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kUnsupported: return {400, error.what(), param};
    case ErrorCode::kNotFound: return {404, error.what(), param};
    case ErrorCode::kBusy: return {429, error.what(), {}, "queue_full"};
    case ErrorCode::kCancelled: return {503, error.what(), {}, "shutting_down"};
    default: return {500, error.what()};
  }
}

}  // namespace metal_marlin::server
