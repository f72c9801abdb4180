#include "grammar/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "grammar/automaton.h"
#include "grammar/guide.h"
#include "grammar/intersection.h"
#include "grammar/json_decimal.h"
#include "grammar/json_rules.h"
#include "grammar/pattern.h"
#include "grammar/schema_document.h"
#include "grammar/string_formats.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

constexpr int kDeepestSchema = 100;
constexpr std::size_t kMostSchemas = std::size_t{1} << 15;
constexpr std::int64_t kLargestMultiple = 2048;
constexpr int kDoubleDigits = 15;  // that each binary number of 64 bits tells apart
constexpr int kMostWithin = 3;
constexpr int kLongestHostname = 253;

class SchemaCompiler {
 public:
  // \param within literals that a schema beside them is compiled for; \param schemas compiled so far.
  SchemaCompiler(Rules& rules, const SchemaDocument& document, int within, std::size_t& schemas)
      : rules_(rules), json_(rules), document_(document), within_(within), schemas_(schemas) {}

  ExpressionId run(const OrderedJson& schema) {
    const ExpressionId out = value(schema, "");
    // What references lead to waits, so that schemas that refer to each other do not lie in each other.
    while (!open_.empty()) {
      const auto [rule, target, name] = open_.back();
      open_.pop_back();
      rules_.define(rule, value(*target, target == &document_.root() ? "" : name));
    }
    return out;
  }

 private:
  [[noreturn]] void refuse(const std::string& at, const std::string& what) const { document_.refuse(at, what); }

  ExpressionId value(const OrderedJson& schema, const std::string& at);
  ExpressionId known_value(const OrderedJson& schema, const std::string& at);
  ExpressionId reference(const OrderedJson& name, const std::string& at);
  ExpressionId all_of(OrderedJson schema, const std::string& at);
  ExpressionId alternatives(const OrderedJson& schema, const char* keyword, const std::string& at);
  ExpressionId literals(OrderedJson schema, const std::string& at);
  ExpressionId typed(const OrderedJson& schema, const std::string& at);
  ExpressionId object(const OrderedJson& schema, const std::string& at);
  ExpressionId array(const OrderedJson& schema, const std::string& at);
  ExpressionId string(const OrderedJson& schema, const std::string& at);
  ExpressionId pattern(std::string_view pattern, bool search, const std::string& at);
  ExpressionId characters(int least, std::optional<int> most);
  ExpressionId quoted(ExpressionId text);
  ExpressionId numbers(const OrderedJson& schema, unsigned types, const std::string& at);
  [[nodiscard]] std::optional<double> number(const OrderedJson& schema, const char* keyword,
                                             const std::string& at) const;
  [[nodiscard]] std::optional<Decimal> decimal(const OrderedJson& schema, const char* keyword,
                                               const std::string& at) const;
  [[nodiscard]] int places_of_bounds(const OrderedJson& schema, const std::string& at) const;
  void add_bounds(const OrderedJson& schema, const std::string& at, NumberBounds& bounds) const;
  ExpressionId with_zeros(const NumberBounds& bounds, int zeros);
  [[nodiscard]] std::optional<int> count(const OrderedJson& schema, const char* keyword, const std::string& at) const;

  struct Open {
    RuleId rule;
    const OrderedJson* target;
    std::string name;
  };
  Rules& rules_;
  JsonRules json_;
  const SchemaDocument& document_;
  std::map<const OrderedJson*, RuleId> references_;
  std::vector<Open> open_;
  int depth_ = 0;
  int within_;
  std::size_t& schemas_;
};

ExpressionId SchemaCompiler::value(const OrderedJson& schema, const std::string& at) {
  if (depth_ > kDeepestSchema) refuse(at, fmt::format("more than {} schemas in each other", kDeepestSchema));
  if (++schemas_ > kMostSchemas) refuse(at, fmt::format("more than {} schemas", kMostSchemas));
  const OrderedJson known = document_.known_keywords(schema, at);
  if (known == true || (known.is_object() && known.empty())) return json_.value();
  if (known == false) return rules_.nothing();
  ++depth_;
  const ExpressionId out = known_value(known, at);
  --depth_;
  return out;
}

ExpressionId SchemaCompiler::known_value(const OrderedJson& schema, const std::string& at) {
  if (schema.contains("$ref") && schema.size() == 1) return reference(schema["$ref"], at);
  if (schema.contains("$ref")) {
    OrderedJson rest = schema;
    rest.erase("$ref");
    return value(document_.merge(rest, document_.resolve(schema["$ref"], at), at), at);
  }
  if (schema.contains("allOf")) return all_of(schema, at);
  if (schema.contains("anyOf")) return alternatives(schema, "anyOf", at);
  if (schema.contains("oneOf")) return alternatives(schema, "oneOf", at);
  if (schema.contains("const") || schema.contains("enum")) return literals(schema, at);
  return typed(schema, at);
}

ExpressionId SchemaCompiler::reference(const OrderedJson& name, const std::string& at) {
  const OrderedJson* const target = &document_.resolve(name, at);
  const auto known = references_.find(target);
  if (known != references_.end()) return rules_.call(known->second);
  const RuleId rule = rules_.declare(fmt::format("$ref {}", name.get<std::string>()));
  references_.emplace(target, rule);
  open_.push_back({rule, target, name.get<std::string>()});
  return rules_.call(rule);
}

ExpressionId SchemaCompiler::all_of(OrderedJson schema, const std::string& at) {
  const OrderedJson parts = schema["allOf"];
  if (!parts.is_array() || parts.empty()) refuse(at, "allOf is no list of schemas");
  schema.erase("allOf");
  if (parts.size() == 1 && schema.empty()) return value(parts[0], at + "/allOf/0");
  for (const OrderedJson& part : parts) schema = document_.merge(std::move(schema), part, at + "/allOf");
  return value(schema, at);
}

ExpressionId SchemaCompiler::alternatives(const OrderedJson& schema, const char* keyword, const std::string& at) {
  const OrderedJson& parts = schema[keyword];
  const std::string here = fmt::format("{}/{}", at, keyword);
  if (!parts.is_array() || parts.empty()) refuse(here, "is no list of schemas");
  OrderedJson rest = schema;
  rest.erase(keyword);
  std::vector<OrderedJson> all;
  for (const OrderedJson& part : parts) all.push_back(rest.empty() ? part : document_.merge(rest, part, here));
  if (std::string_view(keyword) == "oneOf") {
    for (std::size_t i = 0; i < all.size(); ++i) {
      for (std::size_t k = 0; k < i; ++k) {
        if (!document_.are_apart(all[k], all[i], here))
          refuse(here,
                 fmt::format("a value might be of both {} and {}, and oneOf asks for one: anyOf allows both", k, i));
      }
    }
  }
  std::vector<ExpressionId> out;
  for (std::size_t i = 0; i < all.size(); ++i) out.push_back(value(all[i], fmt::format("{}/{}", here, i)));
  return rules_.any_of(std::move(out));
}

// Those of the values that the rest of the schema has.
ExpressionId SchemaCompiler::literals(OrderedJson schema, const std::string& at) {
  OrderedJson values = schema.value("enum", OrderedJson());
  if (schema.contains("enum") && !values.is_array()) refuse(at, "enum is no list of values");
  if (schema.contains("const")) {
    const OrderedJson only = schema["const"];
    const bool is_there = values.is_null() || std::find(values.begin(), values.end(), only) != values.end();
    values = OrderedJson::array();
    if (is_there) values.push_back(only);
  }
  schema.erase("enum");
  schema.erase("const");
  std::optional<GrammarMatcher> rest;
  if (!schema.empty() && !values.empty()) {
    if (within_ == kMostWithin) refuse(at, "enum and const beside schemas with others, too deep in each other");
    Rules rules;
    const RuleId root = rules.declare("rest");
    rules.set_root(root);
    rules.define(root, SchemaCompiler(rules, document_, within_ + 1, schemas_).run(schema));
    rest.emplace(std::make_shared<Automaton>(rules, ByteSet().set()));
  }
  std::vector<ExpressionId> out;
  for (const OrderedJson& value : values) {
    const OrderedJson canonical = canonical_json(value);
    if (rest) {
      GrammarMatcher matcher = *rest;
      if (!matcher.accept(compact_json(canonical)) || !matcher.is_complete()) continue;
    }
    out.push_back(json_.constant(canonical));
  }
  return rules_.any_of(std::move(out));
}

// Keywords are of the values of one type: what they do not speak of may be anything.
ExpressionId SchemaCompiler::typed(const OrderedJson& schema, const std::string& at) {
  const unsigned types = schema_types(document_, schema, at);
  std::vector<ExpressionId> out;
  if ((types & kObjectType) != 0) out.push_back(object(schema, at));
  if ((types & kArrayType) != 0) out.push_back(array(schema, at));
  if ((types & kStringType) != 0) out.push_back(string(schema, at));
  if ((types & (kNumberType | kIntegerType)) != 0) out.push_back(numbers(schema, types, at));
  if ((types & kBooleanType) != 0) out.push_back(json_.boolean());
  if ((types & kNullType) != 0) out.push_back(json_.null());
  return rules_.any_of(std::move(out));
}

ExpressionId SchemaCompiler::object(const OrderedJson& schema, const std::string& at) {
  struct Member {
    std::string name;
    ExpressionId is;
    bool required;
  };
  const OrderedJson none = OrderedJson::object();
  const OrderedJson* const named = SchemaDocument::find(schema, "properties");
  const OrderedJson* const required = SchemaDocument::find(schema, "required");
  const OrderedJson others = schema.value("additionalProperties", OrderedJson(true));
  if (named == nullptr && required == nullptr && others == true) return json_.object();
  if (named != nullptr && !named->is_object()) refuse(at, "properties is no object");
  std::vector<std::string> must;
  if (required != nullptr) {
    if (!required->is_array()) refuse(at, "required is no list of names");
    for (const OrderedJson& name : *required) {
      if (!name.is_string()) refuse(at, "required is no list of names");
      must.push_back(name.get<std::string>());
    }
  }
  const ExpressionId other = value(others, at + "/additionalProperties");
  std::vector<Member> members;
  std::vector<std::string> names;
  const auto is_named = [&](const std::string& name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  for (const auto& [name, of] : (named == nullptr ? none : *named).items()) {
    members.push_back({name, value(of, fmt::format("{}/properties/{}", at, name)),
                       std::find(must.begin(), must.end(), name) != must.end()});
    names.push_back(name);
  }
  for (const std::string& name : must) {
    if (is_named(name)) continue;
    members.push_back({name, other, true});
    names.push_back(name);
  }
  // What follows the members before: at the object's beginning, and behind others.
  ExpressionId first = rules_.empty();
  ExpressionId rest = rules_.empty();
  if (others != false) {
    const ExpressionId pair = rules_.sequence({json_.other_string(names), json_.colon(), other});
    rest = rules_.rule("more members", rules_.repeat(rules_.sequence({json_.comma(), pair}), 0, std::nullopt));
    first = rules_.optional(rules_.sequence({pair, rest}));
  }
  for (auto member = members.rbegin(); member != members.rend(); ++member) {
    const ExpressionId item =
        rules_.rule("member", rules_.sequence({json_.literal(member->name), json_.colon(), member->is}));
    const ExpressionId as_first = rules_.sequence({item, rest});
    const ExpressionId as_next = rules_.sequence({json_.comma(), item, rest});
    first = rules_.rule("members", member->required ? as_first : rules_.any_of({as_first, first}));
    rest = rules_.rule("members", member->required ? as_next : rules_.any_of({as_next, rest}));
  }
  return rules_.rule("object", rules_.sequence({rules_.text("{"), first, rules_.text("}")}));
}

std::optional<int> SchemaCompiler::count(const OrderedJson& schema, const char* keyword, const std::string& at) const {
  const std::optional<double> out = number(schema, keyword, at);
  if (!out) return std::nullopt;
  if (*out < 0 || *out != std::floor(*out)) refuse(at, fmt::format("{} is {}, expected a count", keyword, *out));
  if (*out > kMostRepeats) refuse(at, fmt::format("{} is {}, which is more than {}", keyword, *out, kMostRepeats));
  return static_cast<int>(*out);
}

ExpressionId SchemaCompiler::array(const OrderedJson& schema, const std::string& at) {
  const OrderedJson* const prefix = SchemaDocument::find(schema, "prefixItems");
  if (prefix != nullptr && !prefix->is_array()) refuse(at, "prefixItems is no list of schemas");
  const int least = count(schema, "minItems", at).value_or(0);
  std::optional<int> most = count(schema, "maxItems", at);
  const OrderedJson items = schema.value("items", OrderedJson(true));
  std::vector<ExpressionId> first;
  for (std::size_t i = 0; prefix != nullptr && i < prefix->size(); ++i)
    first.push_back(value((*prefix)[i], fmt::format("{}/prefixItems/{}", at, i)));
  if (first.empty() && least == 0 && !most && items == true) return json_.array();
  if (items == false) most = std::min(most.value_or(kMostRepeats), static_cast<int>(first.size()));
  if (most && *most < least) return rules_.nothing();
  const ExpressionId item = rules_.rule("item", value(items, at + "/items"));
  if (first.empty()) first.push_back(item);
  const auto known = static_cast<int>(first.size());
  // Behind those that have schemas of their own; then these, from the last one on.
  const auto left = [&](int count) { return std::max(0, count - known); };
  ExpressionId rest = rules_.repeat(rules_.sequence({json_.comma(), item}), left(least),
                                    most ? std::optional(left(*most)) : std::nullopt);
  for (int i = known - 1; i >= 0; --i) {
    std::vector<ExpressionId> parts{first[static_cast<std::size_t>(i)], rest};
    if (i > 0) parts.insert(parts.begin(), json_.comma());
    rest = rules_.sequence(std::move(parts));
    if (most && i >= *most) rest = rules_.empty();
    if (i >= least) rest = rules_.optional(rest);
    rest = rules_.rule("items", rest);
  }
  return rules_.sequence({rules_.text("["), rest, rules_.text("]")});
}

// Between the quotes, spelled in one way.
ExpressionId SchemaCompiler::pattern(std::string_view pattern, bool search, const std::string& at) {
  const PatternOptions options{search, [&](const Characters& set) { return json_.character_of(set); }};
  return parse_pattern(rules_, pattern, at.empty() ? "/" : at, options);
}

ExpressionId SchemaCompiler::string(const OrderedJson& schema, const std::string& at) {
  const std::optional<int> least = count(schema, "minLength", at);
  const std::optional<int> most = count(schema, "maxLength", at);
  if (most && *most < least.value_or(0)) return rules_.nothing();
  std::vector<ExpressionId> all;
  if (const OrderedJson* const regex = SchemaDocument::find(schema, "pattern")) {
    if (!regex->is_string()) refuse(at, "pattern is no text");
    all.push_back(pattern(regex->get_ref<const std::string&>(), true, at + "/pattern"));
  }
  if (const OrderedJson* const format = SchemaDocument::find(schema, "format")) {
    if (!format->is_string()) refuse(at, "format is no text");
    const auto known = pattern_of_format(format->get_ref<const std::string&>());
    if (!known) refuse(at, fmt::format("the format {} is not supported", format->dump()));
    all.push_back(pattern(*known, false, at + "/format"));
    if (format->get_ref<const std::string&>() == "hostname") all.push_back(characters(1, kLongestHostname));
  }
  if (all.empty()) {
    if (!least && !most) return json_.string();
    return quoted(rules_.repeat(json_.character(), least.value_or(0), most));
  }
  if (least || most) all.push_back(characters(least.value_or(0), most));
  ExpressionId out = all.front();
  for (std::size_t i = 1; i < all.size(); ++i) out = intersection(rules_, out, all[i]);
  return rules_.rule("pattern", quoted(out));
}

ExpressionId SchemaCompiler::characters(int least, std::optional<int> most) {
  return rules_.repeat(json_.character_of(Characters::all()), least, most);
}

ExpressionId SchemaCompiler::quoted(ExpressionId text) {
  return rules_.sequence({rules_.text("\""), text, rules_.text("\"")});
}

std::optional<double> SchemaCompiler::number(const OrderedJson& schema, const char* keyword,
                                             const std::string& at) const {
  const OrderedJson* const found = SchemaDocument::find(schema, keyword);
  if (found == nullptr) return std::nullopt;
  if (!found->is_number()) refuse(at, fmt::format("{} is {}, expected a number", keyword, found->dump()));
  return found->get<double>();
}

std::optional<Decimal> SchemaCompiler::decimal(const OrderedJson& schema, const char* keyword,
                                               const std::string& at) const {
  const OrderedJson* const found = SchemaDocument::find(schema, keyword);
  if (found == nullptr) return std::nullopt;
  if (!found->is_number()) refuse(at, fmt::format("{} is {}, expected a number", keyword, found->dump()));
  const auto out = decimal_of(*found);
  if (!out) refuse(at, fmt::format("{} is {}, which is too large or has too many decimals", keyword, found->dump()));
  return out;
}

// How many decimals numbers have that are told from a bound they must not be: as many as binary numbers tell apart.
int SchemaCompiler::places_of_bounds(const OrderedJson& schema, const std::string& at) const {
  int out = kDoubleDigits;
  int least = 0;
  for (const char* const keyword : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}) {
    const auto bound = decimal(schema, keyword, at);
    if (!bound) continue;
    out = std::min(out, kDoubleDigits - bound->whole_digits());
    least = std::max(least, bound->places());
    if (std::string_view(keyword).starts_with("exclusive") && bound->places() > 0 &&
        bound->places() + bound->whole_digits() > kDoubleDigits)
      refuse(at, fmt::format("{} has more than {} digits, which is not supported", keyword, kDoubleDigits));
  }
  return std::max({out, least, 0});
}

void SchemaCompiler::add_bounds(const OrderedJson& schema, const std::string& at, NumberBounds& bounds) const {
  for (const char* const keyword : {"minimum", "exclusiveMinimum"}) {
    const auto bound = decimal(schema, keyword, at);
    if (!bound) continue;
    WideInteger least = bound->rounded(bounds.places, true);
    if (std::string_view(keyword) == "exclusiveMinimum" && bound->exactly(bounds.places)) ++least;
    bounds.least = std::max(least, bounds.least.value_or(least));
  }
  for (const char* const keyword : {"maximum", "exclusiveMaximum"}) {
    const auto bound = decimal(schema, keyword, at);
    if (!bound) continue;
    WideInteger most = bound->rounded(bounds.places, false);
    if (std::string_view(keyword) == "exclusiveMaximum" && bound->exactly(bounds.places)) --most;
    bounds.most = std::min(most, bounds.most.value_or(most));
  }
}

ExpressionId SchemaCompiler::numbers(const OrderedJson& schema, unsigned types, const std::string& at) {
  bool is_whole = (types & kNumberType) == 0;
  const auto multiple = decimal(schema, "multipleOf", at);
  bool is_bounded = false;
  for (const char* const keyword : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
    is_bounded = is_bounded || SchemaDocument::find(schema, keyword) != nullptr;
  if (multiple && multiple->digits <= 0)
    refuse(at, fmt::format("multipleOf is {}, expected more than 0", schema["multipleOf"].dump()));
  is_whole = is_whole || (multiple && multiple->places() == 0);
  if (!is_whole && !multiple && !is_bounded) return json_.number();
  NumberBounds bounds;
  int zeros = 0;  // that are at the end of all but 0
  if (multiple) {
    bounds.places = is_whole ? 0 : multiple->places();
    WideInteger units = multiple->digits;                       // of the multiple's own last decimal
    for (int i = bounds.places; i < multiple->places(); ++i) {  // of whole numbers those that are whole multiples
      if (units % 2 == 0) units /= 2;
      if (units % 5 == 0) units /= 5;
    }
    for (int i = 0; i < multiple->exponent; ++i) ++zeros;
    if (units > kLargestMultiple)
      refuse(at, fmt::format("multipleOf is {}: its digits are more than {}, which is not supported",
                             schema["multipleOf"].dump(), kLargestMultiple));
    bounds.multiple = static_cast<std::int64_t>(units);
  } else if (!is_whole) {
    bounds.places = places_of_bounds(schema, at);
  }
  bounds.places -= zeros;
  add_bounds(schema, at, bounds);
  bounds.places += zeros;
  if (zeros == 0) return rules_.rule("number", json_.bounded_number(bounds));
  return rules_.rule("number", with_zeros(bounds, zeros));
}

// Of numbers in units of 10^zeros: 0 has none of them.
ExpressionId SchemaCompiler::with_zeros(const NumberBounds& bounds, int zeros) {
  std::vector<ExpressionId> out;
  const std::string end(static_cast<std::size_t>(zeros), '0');
  NumberBounds below = bounds;
  NumberBounds above = bounds;
  below.most = std::min<WideInteger>(bounds.most.value_or(-1), -1);
  above.least = std::max<WideInteger>(bounds.least.value_or(1), 1);
  for (const NumberBounds& part : {below, above})
    out.push_back(rules_.sequence({json_.bounded_number(part), rules_.text(end)}));
  if (bounds.least.value_or(0) <= 0 && bounds.most.value_or(0) >= 0) out.push_back(rules_.text("0"));
  return rules_.any_of(std::move(out));
}

}  // namespace

ExpressionId parse_schema(Rules& rules, std::string_view schema, const std::string& where) {
  const SchemaDocument document(schema, where);
  std::size_t schemas = 0;
  return SchemaCompiler(rules, document, 0, schemas).run(document.root());
}

}  // namespace metal_marlin
