#include "server/json_text.h"

#include <fmt/format.h>

#include "server/api_error.h"

namespace metal_marlin::server {
namespace {

constexpr int kMaxDepth = 64;

}  // namespace

OrderedJson parse_body(std::string_view body) {
  if (is_nested_deeper(body, kMaxDepth))
    throw ApiError(400, fmt::format("the body is nested more than {} deep", kMaxDepth), {}, "json_too_deep");
  OrderedJson value;
  try {
    value = OrderedJson::parse(body.begin(), body.end());
  } catch (const OrderedJson::exception& error) {
    throw ApiError(400, fmt::format("the body is not valid JSON: {}", error.what()), {}, "invalid_json");
  }
  if (!value.is_object()) {
    throw ApiError(400, fmt::format("the body is a JSON {}, expected an object", value.type_name()), {},
                   "invalid_json");
  }
  return value;
}

}  // namespace metal_marlin::server
