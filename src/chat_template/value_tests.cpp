// The tests that follow `is`.
#include <cmath>

#include "base/unicode.h"
#include "chat_template/characters.h"
#include "chat_template/failure.h"
#include "chat_template/library.h"
#include "chat_template/operators.h"

namespace metal_marlin::jinja {
namespace {

template <bool (*is)(const Value&)>
bool plain(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("test", "", 0, std::move(arguments));
  return is(value);
}

template <Operator op>
bool compared(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("test", "other", 1, std::move(arguments));
  return compare(op, value, bound[0]);
}

bool rest_is(const Value& value, const Value& divisor, std::int64_t rest) {
  return equal(binary(Operator::kMod, value, divisor), rest);
}
bool test_odd(const Value& value) {
  return rest_is(value, 2, 1);
}
bool test_even(const Value& value) {
  return rest_is(value, 2, 0);
}
bool test_defined(const Value& value) {
  return !value.is_undefined();
}
bool test_undefined(const Value& value) {
  return value.is_undefined();
}
bool test_none(const Value& value) {
  return value.is<None>();
}
bool test_boolean(const Value& value) {
  return value.is<bool>();
}
template <bool wanted>
bool test_the_boolean(const Value& value) {
  const bool* const boolean = value.get<bool>();
  return boolean != nullptr && *boolean == wanted;
}
bool test_integer(const Value& value) {
  return value.is<std::int64_t>();
}
bool test_float(const Value& value) {
  return value.is<double>();
}
bool test_number(const Value& value) {
  return value.is_number();
}
bool test_string(const Value& value) {
  return value.is_text();
}
bool test_mapping(const Value& value) {
  return value.is<Ref<const Dict>>();
}
bool test_sequence(const Value& value) {
  return value.is_text() || value.is<Ref<const Sequence>>() || value.is<Ref<const Dict>>() ||
         value.is<Ref<const Range>>() || value.is_undefined();
}
bool test_callable(const Value& value) {
  const auto* const custom = value.get<Ref<Custom>>();
  return value.is_undefined() || (custom != nullptr && (*custom)->callable());
}
bool test_escaped(const Value& value) {
  return value.is_safe();
}

// Letters, all of one case.
template <bool (*is)(char32_t), bool (*is_other)(char32_t)>
bool test_case(const Value& value) {
  const std::string text = str(value);
  bool found = false;
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = next_character(text, at);
    if (is_other(c) || is_title(c)) return false;
    found = found || is(c);
  }
  return found;
}

bool test_same(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("test_sameas", "other", 1, std::move(arguments));
  return same(value, bound[0]);
}

bool test_divisible(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("test_divisibleby", "num", 1, std::move(arguments));
  return rest_is(value, bound[0], 0);
}

bool test_in(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("test_in", "seq", 1, std::move(arguments));
  return contains(bound[0], value);
}

template <bool (*has)(std::string_view)>
bool test_known(const Value& value) {
  return value.is_text() && has(value.text());
}

}  // namespace

std::vector<Test> value_tests() {
  return {{"odd", plain<test_odd>},
          {"even", plain<test_even>},
          {"divisibleby", test_divisible},
          {"defined", plain<test_defined>},
          {"undefined", plain<test_undefined>},
          {"filter", plain<test_known<has_filter>>},
          {"test", plain<test_known<has_test>>},
          {"none", plain<test_none>},
          {"boolean", plain<test_boolean>},
          {"false", plain<test_the_boolean<false>>},
          {"true", plain<test_the_boolean<true>>},
          {"integer", plain<test_integer>},
          {"float", plain<test_float>},
          {"lower", plain<test_case<is_lower, is_upper>>},
          {"upper", plain<test_case<is_upper, is_lower>>},
          {"string", plain<test_string>},
          {"mapping", plain<test_mapping>},
          {"number", plain<test_number>},
          {"sequence", plain<test_sequence>},
          {"iterable", plain<is_iterable>},
          {"callable", plain<test_callable>},
          {"sameas", test_same},
          {"escaped", plain<test_escaped>},
          {"in", test_in},
          {"==", compared<Operator::kEq>},
          {"eq", compared<Operator::kEq>},
          {"equalto", compared<Operator::kEq>},
          {"!=", compared<Operator::kNe>},
          {"ne", compared<Operator::kNe>},
          {">", compared<Operator::kGt>},
          {"gt", compared<Operator::kGt>},
          {"greaterthan", compared<Operator::kGt>},
          {"ge", compared<Operator::kGe>},
          {">=", compared<Operator::kGe>},
          {"<", compared<Operator::kLt>},
          {"lt", compared<Operator::kLt>},
          {"lessthan", compared<Operator::kLt>},
          {"<=", compared<Operator::kLe>},
          {"le", compared<Operator::kLe>}};
}

}  // namespace metal_marlin::jinja
