// What templates can call: filters, tests, methods of values, functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "chat_template/value.h"

namespace metal_marlin::jinja {

class Interpreter;

// Arguments in the order of a function's parameters; those that were not given are Missing.
class Bound {
 public:
  // names: of the parameters, with blanks between them, of which so many are required.
  // \throws Failure (kPython) when the arguments do not fit.
  Bound(std::string_view function, std::string_view names, std::size_t required, Arguments arguments);

  [[nodiscard]] const Value& operator[](std::size_t index) const { return values_[index]; }
  [[nodiscard]] bool has(std::size_t index) const { return !values_[index].is<Missing>(); }
  [[nodiscard]] bool given(std::size_t index) const { return has(index) && !values_[index].is<None>(); }
  [[nodiscard]] bool flag(std::size_t index) const { return has(index) && truth(values_[index]); }
  [[nodiscard]] std::int64_t integer(std::size_t index, std::int64_t fallback) const;
  [[nodiscard]] std::string text(std::size_t index, std::string_view fallback) const;

 private:
  std::string function_;
  std::vector<Value> values_;
};

// \throws Failure (kPython): what Python says when it wants an integer.
std::int64_t as_integer(const Value& value);
const std::string& as_text(std::string_view function, const Value& value);

// A filter or test gets what it is applied to, then its arguments.
using FilterFunction = Value (*)(Interpreter&, const Value&, Arguments);
using TestFunction = bool (*)(Interpreter&, const Value&, Arguments);
using Filter = std::pair<std::string_view, FilterFunction>;
using Test = std::pair<std::string_view, TestFunction>;

bool has_filter(std::string_view name);
bool has_test(std::string_view name);
Value call_filter(Interpreter& interpreter, std::string_view name, const Value& value, Arguments arguments);
bool call_test(Interpreter& interpreter, std::string_view name, const Value& value, Arguments arguments);
// The tables that these look into, by the file that has them.
std::vector<Filter> text_filters();
std::vector<Filter> number_filters();
std::vector<Filter> sequence_filters();
std::vector<Filter> selection_filters();
std::vector<Test> value_tests();

// The method of a value, called. Its name is one of those that attributes.h knows.
Value call_method(Interpreter& interpreter, const Value& self, std::string_view name, Arguments arguments);
Value call_text_method(Interpreter& interpreter, const Value& self, std::string_view name, Arguments arguments);
bool has_text_method(std::string_view name);

// The functions that a template begins with.
std::vector<std::pair<std::string, Value>> global_functions();

// str.format and the % of texts.
Value format_text(Interpreter& interpreter, const Value& self, Arguments arguments, bool with_map = false);
Value percent_format(const Value& self, const Value& arguments);
// format(value, spec), of a format's field.
std::string format_value(const Value& value, std::string_view spec);

}  // namespace metal_marlin::jinja
