#include "grammar/schema_document.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

#include "io/json_fields.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr int kDeepestValue = 200;
constexpr std::size_t kMostMerges = std::size_t{1} << 14;
constexpr std::size_t kMostAlternatives = 1024;  // of two lists of alternatives together
constexpr int kMostReferences = 64;              // one after the other

constexpr std::array<std::string_view, 13> kAnnotations{"title",   "description", "default",    "examples", "$schema",
                                                        "$id",     "$comment",    "deprecated", "readOnly", "writeOnly",
                                                        "$anchor", "$defs",       "definitions"};
constexpr std::array<std::string_view, 23> kKeywords{"type",
                                                     "properties",
                                                     "required",
                                                     "additionalProperties",
                                                     "items",
                                                     "prefixItems",
                                                     "minItems",
                                                     "maxItems",
                                                     "enum",
                                                     "const",
                                                     "anyOf",
                                                     "oneOf",
                                                     "allOf",
                                                     "$ref",
                                                     "minLength",
                                                     "maxLength",
                                                     "pattern",
                                                     "format",
                                                     "minimum",
                                                     "maximum",
                                                     "exclusiveMinimum",
                                                     "exclusiveMaximum",
                                                     "multipleOf"};

bool is_one_of(std::span<const std::string_view> names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// A part of a JSON pointer in a fragment.
std::string pointer_part(std::string_view text) {
  std::string out;
  const auto digit = [](char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && digit(text[i + 1]) >= 0 && digit(text[i + 2]) >= 0) {
      out += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  std::string decoded;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const bool is_escape = out[i] == '~' && i + 1 < out.size() && (out[i + 1] == '0' || out[i + 1] == '1');
    decoded += !is_escape ? out[i] : out[i + 1] == '0' ? '~' : '/';
    if (is_escape) ++i;
  }
  return decoded;
}

OrderedJson without(OrderedJson schema, const char* keyword) {
  schema.erase(keyword);
  return schema;
}

}  // namespace

OrderedJson canonical_json(const OrderedJson& value) {
  if (value.is_number_float()) {
    const double number = value.get<double>();
    if (number == std::floor(number) && std::fabs(number) <= 0x1p53) return static_cast<std::int64_t>(number);
  }
  if (!value.is_structured()) return value;
  OrderedJson out = value;
  for (auto& item : out) item = canonical_json(item);
  return out;
}

unsigned type_of_value(const OrderedJson& value) {
  switch (value.type()) {
    case OrderedJson::value_t::null: return kNullType;
    case OrderedJson::value_t::boolean: return kBooleanType;
    case OrderedJson::value_t::object: return kObjectType;
    case OrderedJson::value_t::array: return kArrayType;
    case OrderedJson::value_t::string: return kStringType;
    case OrderedJson::value_t::number_float:
      return canonical_json(value).is_number_float() ? kNumberType : kIntegerType;
    default: return kIntegerType;
  }
}

unsigned schema_types(const SchemaDocument& document, const OrderedJson& schema, const std::string& at) {
  const OrderedJson* const type = SchemaDocument::find(schema, "type");
  if (type == nullptr) return kAllTypes;
  constexpr std::array<std::pair<std::string_view, unsigned>, 7> kNames{{{"null", kNullType},
                                                                         {"boolean", kBooleanType},
                                                                         {"object", kObjectType},
                                                                         {"array", kArrayType},
                                                                         {"string", kStringType},
                                                                         {"integer", kIntegerType},
                                                                         {"number", kNumberType | kIntegerType}}};
  const auto of = [&](const OrderedJson& name) {
    for (const auto& [known, bits] : kNames) {
      if (name.is_string() && name.get_ref<const std::string&>() == known) return bits;
    }
    document.refuse(at, fmt::format("type is {}, expected a type of JSON Schema, or several", name.dump()));
  };
  if (!type->is_array()) return of(*type);
  unsigned out = 0;
  for (const OrderedJson& name : *type) out |= of(name);
  return out;
}

SchemaDocument::SchemaDocument(std::string_view text, std::string where) : where_(std::move(where)) {
  const auto check_depth = [&](int depth, OrderedJson::parse_event_t /*event*/, OrderedJson& /*value*/) {
    if (depth > kDeepestValue) refuse("", fmt::format("more than {} values in each other", kDeepestValue));
    return true;
  };
  if (const std::size_t fields = most_json_fields(text); fields > kMostJsonFields)
    refuse("", fmt::format("an object of {} fields, expected at most {}", fields, kMostJsonFields));
  try {
    root_ = OrderedJson::parse(text.begin(), text.end(), check_depth);
  } catch (const OrderedJson::exception& error) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: not valid JSON: {}", where_, error.what()));
  }
}

void SchemaDocument::refuse(const std::string& at, const std::string& what) const {
  throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: {}: {}", where_, at.empty() ? "/" : at, what));
}

const OrderedJson* SchemaDocument::find(const OrderedJson& schema, const char* keyword) {
  if (!schema.is_object()) return nullptr;
  const auto found = schema.find(keyword);
  return found == schema.end() ? nullptr : &*found;
}

OrderedJson SchemaDocument::known_keywords(const OrderedJson& schema, const std::string& at) const {
  if (!schema.is_object() && !schema.is_boolean())
    refuse(at, fmt::format("a schema is {}, expected an object or a boolean", schema.type_name()));
  if (schema.is_boolean()) return schema;
  OrderedJson out = OrderedJson::object();
  for (const auto& [keyword, value] : schema.items()) {
    if (is_one_of(kKeywords, keyword)) {
      out[keyword] = value;
    } else if (!is_one_of(kAnnotations, keyword)) {
      refuse(at, fmt::format("the keyword {} is not supported", keyword));
    } else if (keyword == "$schema" && value.dump().find("json-schema.org/") == std::string::npos) {
      refuse(at,
             fmt::format("$schema is {}: metaschemas other than JSON Schema's drafts are not supported", value.dump()));
    } else if (keyword == "$id" && !at.empty()) {
      refuse(at, "the keyword $id is not supported but at the root: references are to one document");
    }
  }
  return out;
}

const OrderedJson* SchemaDocument::find_anchor(const OrderedJson& in, const std::string& name) const {
  if (const OrderedJson* const anchor = find(in, "$anchor"); anchor != nullptr && *anchor == name) return &in;
  if (!in.is_structured()) return nullptr;
  for (const OrderedJson& part : in) {
    if (const OrderedJson* const found = find_anchor(part, name)) return found;
  }
  return nullptr;
}

const OrderedJson& SchemaDocument::resolve(const OrderedJson& reference, const std::string& at) const {
  if (!reference.is_string()) refuse(at, fmt::format("$ref is {}, expected a text", reference.dump()));
  std::string_view text = reference.get_ref<const std::string&>();
  const OrderedJson* const id = find(root_, "$id");
  if (id != nullptr && id->is_string() && text.starts_with(id->get_ref<const std::string&>()))
    text.remove_prefix(id->get_ref<const std::string&>().size());
  const auto missing = [&](const char* what) { refuse(at, fmt::format("$ref is {}, {}", reference.dump(), what)); };
  if (!text.empty() && text[0] != '#') missing("which is in another document");
  if (!text.empty()) text.remove_prefix(1);
  const OrderedJson* to = &root_;
  if (!text.empty() && text[0] != '/') {
    to = find_anchor(root_, std::string(text));
    if (to == nullptr) missing("an anchor that there is not");
    return *to;
  }
  while (!text.empty()) {
    text.remove_prefix(1);
    const std::size_t end = std::min(text.find('/'), text.size());
    const std::string part = pointer_part(text.substr(0, end));
    text.remove_prefix(end);
    if (to->is_array()) {
      const bool is_index = !part.empty() && part.size() < 7 &&
                            std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
      const std::size_t index = is_index ? std::stoul(part) : to->size();
      if (index >= to->size()) missing("which the schema does not have");
      to = &(*to)[index];
    } else {
      to = find(*to, part.c_str());
      if (to == nullptr) missing("which the schema does not have");
    }
  }
  return *to;
}

// Without references and lists of schemas that all hold.
OrderedJson SchemaDocument::expanded(OrderedJson schema, const std::string& at) const {
  for (int i = 0; schema.is_object() && (schema.contains("$ref") || schema.contains("allOf")); ++i) {
    if (i > kMostReferences) refuse(at, "$ref: references lead to each other");
    if (const OrderedJson* const reference = find(schema, "$ref")) {
      const OrderedJson& target = resolve(*reference, at);
      schema = merge(without(schema, "$ref"), target, at);
      continue;
    }
    const OrderedJson parts = schema["allOf"];
    if (!parts.is_array() || parts.empty()) refuse(at, "allOf is no list of schemas");
    schema = without(std::move(schema), "allOf");
    for (const OrderedJson& part : parts) schema = merge(std::move(schema), part, at);
  }
  return schema;
}

OrderedJson SchemaDocument::merge(OrderedJson a, OrderedJson b, const std::string& at) const {
  if (++merges_ > kMostMerges) refuse(at, "the schema is too large: too many schemas that hold together");
  a = known_keywords(a, at);
  b = known_keywords(b, at);
  if (a.is_boolean()) return a.get<bool>() ? b : a;
  if (b.is_boolean()) return b.get<bool>() ? a : b;
  if (a.empty()) return b;
  if (b.empty()) return a;
  a = expanded(std::move(a), at);
  b = expanded(std::move(b), at);
  if (a.is_boolean() || b.is_boolean()) return merge(std::move(a), std::move(b), at);
  merge_objects(a, b, at);
  merge_arrays(a, b, at);
  for (const auto& [keyword, value] : b.items()) {
    if (keyword == "properties" || keyword == "additionalProperties" || keyword == "prefixItems" || keyword == "items")
      continue;
    if (!a.contains(keyword)) {
      a[keyword] = value;
    } else if (a[keyword] != value && !merge_keyword(a[keyword], keyword, value, at)) {
      return false;
    }
  }
  return a;
}

// A member that one of two does not name is one of its additional ones.
void SchemaDocument::merge_objects(OrderedJson& a, const OrderedJson& b, const std::string& at) const {
  const auto of = [&](const OrderedJson& schema, const std::string& name) -> OrderedJson {
    const OrderedJson* const named = find(schema, "properties");
    if (named != nullptr && !named->is_object()) refuse(at, "properties is no object");
    if (named != nullptr && named->contains(name)) return (*named)[name];
    const OrderedJson* const others = find(schema, "additionalProperties");
    return others == nullptr ? OrderedJson(true) : *others;
  };
  OrderedJson out = OrderedJson::object();
  for (const OrderedJson* const schema : std::array<const OrderedJson*, 2>{&a, &b}) {
    const OrderedJson* const named = find(*schema, "properties");
    if (named == nullptr) continue;
    for (const auto& [name, value] : named->items()) {
      if (!out.contains(name)) out[name] = merge(of(a, name), of(b, name), at);
    }
  }
  if (a.contains("additionalProperties") || b.contains("additionalProperties"))
    a["additionalProperties"] = merge(a.value("additionalProperties", OrderedJson(true)),
                                      b.value("additionalProperties", OrderedJson(true)), at);
  if (!out.empty()) a["properties"] = out;
}

void SchemaDocument::merge_arrays(OrderedJson& a, const OrderedJson& b, const std::string& at) const {
  const auto size = [&](const OrderedJson& schema) {
    const OrderedJson* const prefix = find(schema, "prefixItems");
    if (prefix != nullptr && !prefix->is_array()) refuse(at, "prefixItems is no list of schemas");
    return prefix == nullptr ? 0 : prefix->size();
  };
  const auto of = [&](const OrderedJson& schema, std::size_t index) -> OrderedJson {
    if (index < size(schema)) return schema["prefixItems"][index];
    return schema.value("items", OrderedJson(true));
  };
  OrderedJson out = OrderedJson::array();
  const std::size_t count = std::max(size(a), size(b));
  for (std::size_t i = 0; i < count; ++i) out.push_back(merge(of(a, i), of(b, i), at));
  if (a.contains("items") || b.contains("items"))
    a["items"] = merge(a.value("items", OrderedJson(true)), b.value("items", OrderedJson(true)), at);
  if (!out.empty()) a["prefixItems"] = out;
}

OrderedJson SchemaDocument::product(const OrderedJson& a, const OrderedJson& b, const std::string& at) const {
  if (!a.is_array() || !b.is_array() || a.size() * b.size() > kMostAlternatives)
    refuse(at, "too many alternatives that hold together");
  OrderedJson out = OrderedJson::array();
  for (const OrderedJson& of_a : a) {
    for (const OrderedJson& of_b : b) out.push_back(merge(of_a, of_b, at));
  }
  return out;
}

// \returns whether there are values of both.
bool SchemaDocument::merge_keyword(OrderedJson& a, const std::string& keyword, const OrderedJson& b,
                                   const std::string& at) const {
  const auto is_one = [&](std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), keyword) != names.end();
  };
  if (is_one({"minItems", "minLength", "minimum", "exclusiveMinimum"})) {
    a = std::max(a, b);
  } else if (is_one({"maxItems", "maxLength", "maximum", "exclusiveMaximum"})) {
    a = std::min(a, b);
  } else if (keyword == "required") {
    if (!a.is_array() || !b.is_array()) refuse(at, "required is no list of names");
    for (const OrderedJson& name : b) {
      if (std::find(a.begin(), a.end(), name) == a.end()) a.push_back(name);
    }
  } else if (keyword == "anyOf" || keyword == "oneOf") {
    a = product(a, b, at);
  } else if (keyword == "const") {
    return false;  // they differ
  } else if (keyword == "enum") {
    OrderedJson both = OrderedJson::array();
    for (const OrderedJson& value : a) {
      if (std::find(b.begin(), b.end(), value) != b.end()) both.push_back(value);
    }
    a = both;
    return !a.empty();
  } else if (keyword == "type") {
    const unsigned both = schema_types(*this, {{"type", a}}, at) & schema_types(*this, {{"type", b}}, at);
    a = OrderedJson::array();
    for (const char* const name : {"null", "boolean", "object", "array", "string", "number"}) {
      const unsigned bits = schema_types(*this, {{"type", name}}, at);
      if ((both & bits) == bits) a.push_back(name);
    }
    if ((both & (kIntegerType | kNumberType)) == kIntegerType) a.push_back("integer");
    return !a.empty();
  } else if (keyword == "multipleOf" && a.is_number_integer() && b.is_number_integer() && a > 0 && b > 0 &&
             a < (1 << 20) && b < (1 << 20)) {
    a = std::lcm(a.get<std::int64_t>(), b.get<std::int64_t>());
  } else {
    refuse(at, fmt::format("{}: two different ones hold together, which is not supported", keyword));
  }
  return true;
}

bool SchemaDocument::are_apart(const OrderedJson& left, const OrderedJson& right, const std::string& at,
                               int depth) const {
  if (depth > kMostReferences) return false;
  const OrderedJson a = expanded(known_keywords(left, at), at);
  const OrderedJson b = expanded(known_keywords(right, at), at);
  if (a == false || b == false) return true;
  if (a == true || b == true) return false;
  for (const char* const keyword : {"anyOf", "oneOf"}) {
    const auto each = [&](const OrderedJson& alternatives, const OrderedJson& other) {
      return alternatives.is_array() &&
             std::all_of(alternatives.begin(), alternatives.end(),
                         [&](const OrderedJson& one) { return are_apart(one, other, at, depth + 1); });
    };
    if (const OrderedJson* const of = find(a, keyword); of != nullptr && each(*of, b)) return true;
    if (const OrderedJson* const of = find(b, keyword); of != nullptr && each(*of, a)) return true;
  }
  const auto literals = [](const OrderedJson& schema) -> OrderedJson {
    if (const OrderedJson* const value = find(schema, "const")) return OrderedJson::array({*value});
    return schema.value("enum", OrderedJson());
  };
  const OrderedJson of_a = literals(a);
  const OrderedJson of_b = literals(b);
  const auto types = [&](const OrderedJson& schema, const OrderedJson& values) {
    unsigned out = schema_types(*this, schema, at);
    if (!values.is_array()) return out;
    unsigned of_values = 0;
    for (const OrderedJson& value : values) of_values |= type_of_value(value);
    return out & of_values;
  };
  const unsigned both = types(a, of_a) & types(b, of_b);
  if (both == 0) return true;
  if (of_a.is_array() && of_b.is_array()) {
    return std::none_of(of_a.begin(), of_a.end(), [&](const OrderedJson& value) {
      return std::find(of_b.begin(), of_b.end(), value) != of_b.end();
    });
  }
  if (both != kObjectType) return false;
  const auto required = [](const OrderedJson& schema) { return schema.value("required", OrderedJson::array()); };
  // A member that one must have, and that cannot be one of the other.
  const auto lacks = [&](const OrderedJson& one, const OrderedJson& other) {
    for (const OrderedJson& name : required(one)) {
      if (!name.is_string()) continue;
      const auto& key = name.get_ref<const std::string&>();
      const OrderedJson* const named = find(other, "properties");
      const OrderedJson* const there = named == nullptr ? nullptr : find(*named, key.c_str());
      if (there == nullptr && find(other, "additionalProperties") != nullptr && other["additionalProperties"] == false)
        return true;
      const OrderedJson* const here_all = find(one, "properties");
      const OrderedJson* const here = here_all == nullptr ? nullptr : find(*here_all, key.c_str());
      if (here != nullptr && there != nullptr && are_apart(*here, *there, at, depth + 1)) return true;
    }
    return false;
  };
  return lacks(a, b) || lacks(b, a);
}

}  // namespace metal_marlin
