// A JSON Schema's text: where references lead, and several schemas as one.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "io/json.h"

namespace metal_marlin {

class SchemaDocument {
 public:
  // \throws Error (kInvalidArgument) where the text is no JSON, or values lie too deep in each other.
  SchemaDocument(std::string_view text, std::string where);

  [[nodiscard]] const OrderedJson& root() const { return root_; }
  // \throws Error (kInvalidArgument) "where: place: what".
  [[noreturn]] void refuse(const std::string& at, const std::string& what) const;
  // Of an object: the keyword's value, or null.
  static const OrderedJson* find(const OrderedJson& schema, const char* keyword);
  // What a reference leads to.
  [[nodiscard]] const OrderedJson& resolve(const OrderedJson& reference, const std::string& at) const;
  // One schema of those values that both have. \throws Error naming the keyword that cannot be said once for both.
  [[nodiscard]] OrderedJson merge(OrderedJson a, OrderedJson b, const std::string& at) const;
  // Whether no value can be of both, as far as types, literals and required members tell.
  [[nodiscard]] bool are_apart(const OrderedJson& a, const OrderedJson& b, const std::string& at, int depth = 0) const;
  // Refuses keywords that are not known. \returns the schema without those that say nothing about values.
  [[nodiscard]] OrderedJson known_keywords(const OrderedJson& schema, const std::string& at) const;

 private:
  [[nodiscard]] const OrderedJson* find_anchor(const OrderedJson& in, const std::string& name) const;
  [[nodiscard]] OrderedJson expanded(OrderedJson schema, const std::string& at) const;
  void merge_objects(OrderedJson& a, const OrderedJson& b, const std::string& at) const;
  void merge_arrays(OrderedJson& a, const OrderedJson& b, const std::string& at) const;
  bool merge_keyword(OrderedJson& a, const std::string& keyword, const OrderedJson& b, const std::string& at) const;
  [[nodiscard]] OrderedJson product(const OrderedJson& a, const OrderedJson& b, const std::string& at) const;

  OrderedJson root_;
  std::string where_;
  mutable std::size_t merges_ = 0;
};

// The types of a schema's values, a bit each.
enum SchemaType : unsigned {
  kNullType = 1,
  kBooleanType = 2,
  kObjectType = 4,
  kArrayType = 8,
  kStringType = 16,
  kIntegerType = 32,
  kNumberType = 64,  // numbers that are not whole
  kAllTypes = 127,
};
// By the keyword `type`; all where it is missing.
unsigned schema_types(const SchemaDocument& document, const OrderedJson& schema, const std::string& at);
unsigned type_of_value(const OrderedJson& value);
// Whole numbers without a fraction, in the parts too.
OrderedJson canonical_json(const OrderedJson& value);

}  // namespace metal_marlin
