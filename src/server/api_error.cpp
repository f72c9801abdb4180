#include "server/api_error.h"

#include "io/json.h"
#include "server/json_text.h"

namespace metal_marlin::server {
namespace {

const char* error_type(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

}  // namespace

std::string error_body(const ApiError& error) {
  const auto text_or_null = [](const std::string& text) { return text.empty() ? OrderedJson() : OrderedJson(text); };
  return json_text({{"error",
                     {{"message", error.what()},
                      {"type", error_type(error.status)},
                      {"param", text_or_null(error.param)},
                      {"code", text_or_null(error.code)}}}});
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
