// What a client is told when its request cannot be answered, in the shape of the API that it speaks.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "base/printable.h"
#include "metal_marlin/error.h"

namespace metal_marlin::server {

struct ApiError : std::runtime_error {
  ApiError(int status_, const std::string& message, std::string param_ = {}, std::string code_ = {})
      : std::runtime_error(printable(message)), status(status_), param(std::move(param_)), code(std::move(code_)) {}
  int status;
  std::string param;  // the field that is meant; empty: none
  std::string code;   // a name for programs; empty: none
};

// Whether a path is one of Anthropic's API.
bool is_message_path(std::string_view path);
// {"error": {"message", "type", "param", "code"}}; for paths of Anthropic's API {"type": "error", "error",
// "request_id"}, the error with the same fields.
std::string error_body(const ApiError& error, std::string_view path, const std::string& request_id);

// Fields of a request that are right, each for itself, but not together. `param` is the one to change.
ApiError conflict(const std::string& message, const std::string& param);

// What a failure of the library is to a client. `param`: the field that its argument came from.
ApiError to_api_error(const Error& error, const std::string& param = {});

}  // namespace metal_marlin::server
