// Words of JSON Schema.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "server/json_text.h"

namespace metal_marlin::server::schema {

using Properties = std::vector<std::pair<std::string, OrderedJson>>;

inline OrderedJson type(const char* name) {
  return {{"type", name}};
}
inline OrderedJson text() {
  return type("string");
}
inline OrderedJson flag() {
  return type("boolean");
}
inline OrderedJson number(double low, double high) {
  return {{"type", "number"}, {"minimum", low}, {"maximum", high}};
}
inline OrderedJson integer(std::int64_t low, std::int64_t high) {
  return {{"type", "integer"}, {"minimum", low}, {"maximum", high}};
}
inline OrderedJson count() {
  return {{"type", "integer"}, {"minimum", 0}};
}
inline OrderedJson list_of(OrderedJson items) {
  return {{"type", "array"}, {"items", std::move(items)}};
}
inline OrderedJson list_of(OrderedJson items, std::size_t least, std::size_t most) {
  return {{"type", "array"}, {"items", std::move(items)}, {"minItems", least}, {"maxItems", most}};
}
inline OrderedJson either(const std::vector<OrderedJson>& schemas) {
  return {{"anyOf", schemas}};
}
inline OrderedJson one_of(const std::vector<OrderedJson>& values) {
  return {{"enum", values}};
}
inline OrderedJson nullable(OrderedJson schema) {
  return either({std::move(schema), type("null")});
}

}  // namespace metal_marlin::server::schema
