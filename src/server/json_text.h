// JSON as the server reads it and writes it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "io/json.h"

namespace metal_marlin::server {

// On one line, whatever bytes texts hold.
inline std::string json_text(const OrderedJson& value) {
  return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

// The object that a request's body is. Values are nested 64 deep at most.
// \throws ApiError (400).
OrderedJson parse_body(std::string_view body);

}  // namespace metal_marlin::server
