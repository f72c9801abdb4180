#include "server/json_text.h"

#include <fmt/format.h>

#include "io/json_fields.h"
#include "server/api_error.h"

namespace metal_marlin::server {
namespace {

constexpr int kMaxDepth = 64;

const char* kind_of(const OrderedJson& value) {
  if (value.is_array()) return "a list";
  if (value.is_string()) return "a text";
  if (value.is_number()) return "a number";
  return value.is_boolean() ? "true or false" : "null";
}

}  // namespace

OrderedJson parse_body(std::string_view body) {
  if (is_nested_deeper(body, kMaxDepth))
    throw ApiError(400, fmt::format("the body is nested more than {} deep", kMaxDepth), {}, "json_too_deep");
  if (const std::size_t fields = most_json_fields(body); fields > kMostJsonFields)
    throw ApiError(400,
                   fmt::format("the body has an object of {} fields, expected at most {}", fields, kMostJsonFields), {},
                   "json_too_large");
  OrderedJson value;
  try {
    value = OrderedJson::parse(body.begin(), body.end());
  } catch (const OrderedJson::exception& error) {
    throw ApiError(400, fmt::format("the body is not valid JSON: {}", invalid_json_text(body, error)), {},
                   "invalid_json");
  }
  if (!value.is_object()) {
    throw ApiError(400, fmt::format("the body is {} in JSON, expected an object", kind_of(value)), {}, "invalid_json");
  }
  return value;
}

}  // namespace metal_marlin::server
