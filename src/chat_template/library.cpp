#include "chat_template/library.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <map>

#include "chat_template/attributes.h"
#include "chat_template/failure.h"
#include "chat_template/interpreter.h"
#include "chat_template/objects.h"

namespace metal_marlin::jinja {
namespace {

const std::map<std::string_view, FilterFunction>& filters() {
  static const std::map<std::string_view, FilterFunction> all = [] {
    std::map<std::string_view, FilterFunction> out;
    for (const auto& table : {text_filters(), number_filters(), sequence_filters(), selection_filters()}) {
      out.insert(table.begin(), table.end());
    }
    return out;
  }();
  return all;
}

const std::map<std::string_view, TestFunction>& tests() {
  static const std::map<std::string_view, TestFunction> all = [] {
    const std::vector<Test> table = value_tests();
    return std::map<std::string_view, TestFunction>(table.begin(), table.end());
  }();
  return all;
}

Value make_range(Interpreter& /*interpreter*/, Arguments arguments) {
  if (!arguments.named.empty()) python_error("range() takes no keyword arguments");
  const Bound bound("range", "start stop step", 1, std::move(arguments));
  std::int64_t start = 0;
  std::int64_t stop = as_integer(bound[0]);
  if (bound.has(1)) start = std::exchange(stop, as_integer(bound[1]));
  const std::int64_t step = bound.has(2) ? as_integer(bound[2]) : 1;
  if (step == 0) python_error("range() arg 3 must not be zero");
  return std::make_shared<const Range>(start, stop, step);
}

// The entries that dict(...) and namespace(...) are made of.
Dict::Items dict_items(Arguments arguments) {
  Dict::Items items;
  if (arguments.positional.size() > 1) {
    python_error("dict expected at most 1 argument, got {}", arguments.positional.size());
  }
  if (!arguments.positional.empty()) {
    const Value& from = arguments.positional.front();
    if (const auto* undefined = from.object<Undefined>()) undefined->fail();
    if (const auto* dict = from.object<Dict>()) {
      items = dict->items();
    } else {
      for (const Value& pair : elements(from)) {
        std::vector<Value> both = elements(pair);
        if (both.size() != 2) {
          python_error("dictionary update sequence element has length {}; 2 is required", both.size());
        }
        items.emplace_back(std::move(both[0]), std::move(both[1]));
      }
    }
  }
  for (auto& [name, value] : arguments.named) items.emplace_back(name, std::move(value));
  return items;
}

Value make_dict(Interpreter& /*interpreter*/, Arguments arguments) {
  return std::make_shared<const Dict>(dict_items(std::move(arguments)));
}

Value make_namespace(Interpreter& interpreter, Arguments arguments) {
  return interpreter.make_namespace(Dict(dict_items(std::move(arguments))).items());
}

Value make_cycler(Interpreter& /*interpreter*/, Arguments arguments) {
  if (!arguments.named.empty()) python_error("cycler() takes no keyword arguments");
  if (arguments.positional.empty()) python_error("at least one item has to be provided");
  return Ref<Custom>(std::make_shared<Cycler>(std::move(arguments.positional)));
}

Value make_joiner(Interpreter& /*interpreter*/, Arguments arguments) {
  const Bound bound("joiner", "sep", 0, std::move(arguments));
  return Ref<Custom>(std::make_shared<Joiner>(bound.has(0) ? bound[0] : Value(", ")));
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): its type is that of all functions
Value refuse_lorem_ipsum(Interpreter& /*interpreter*/, Arguments /*arguments*/) {
  fail(FailureKind::kUnsupported, "lipsum, whose text is random");
}

Value raise_exception(Interpreter& /*interpreter*/, Arguments arguments) {
  const Bound bound("raise_exception", "message", 1, std::move(arguments));
  throw Failure(FailureKind::kTemplate, str(bound[0]));
}

// The fields that a date without a time zone leaves empty, or the C library lacks.
std::string prepare_date_format(std::string_view format) {
  std::string out;
  for (std::size_t i = 0; i < format.size(); ++i) {
    out += format[i];
    if (format[i] != '%' || i + 1 == format.size()) continue;
    const char field = format[++i];
    if (field == 'f' || field == 'z' || field == 'Z') {
      out.pop_back();
      if (field == 'f') out += "000000";
    } else {
      out += field;
    }
  }
  return out;
}

Value strftime_now(Interpreter& interpreter, Arguments arguments) {
  const Bound bound("strftime_now", "format", 1, std::move(arguments));
  const std::string format = prepare_date_format(as_text("strftime", bound[0]));
  const auto day = std::chrono::floor<std::chrono::days>(interpreter.now());
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss time(interpreter.now() - day);
  std::tm parts{};
  parts.tm_year = static_cast<int>(date.year()) - 1900;
  parts.tm_mon = static_cast<int>(static_cast<unsigned>(date.month())) - 1;
  parts.tm_mday = static_cast<int>(static_cast<unsigned>(date.day()));
  parts.tm_hour = static_cast<int>(time.hours().count());
  parts.tm_min = static_cast<int>(time.minutes().count());
  parts.tm_sec = static_cast<int>(time.seconds().count());
  parts.tm_wday = static_cast<int>(std::chrono::weekday(day).c_encoding());
  const std::chrono::local_days new_year{date.year() / std::chrono::January / 1};
  parts.tm_yday = static_cast<int>((day - new_year).count());
  parts.tm_isdst = -1;
  std::string out(format.size() * 32 + 64, '\0');  // the longest field is a whole date
  check_size(out.size());
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), &parts));
  return out;
}

}  // namespace

Bound::Bound(std::string_view function, std::string_view names, std::size_t required, Arguments arguments)
    : function_(function) {
  std::vector<std::string_view> all;
  while (!names.empty()) {
    const std::size_t end = std::min(names.find(' '), names.size());
    all.push_back(names.substr(0, end));
    names.remove_prefix(std::min(end + 1, names.size()));
  }
  if (arguments.positional.size() > all.size()) {
    python_error("{}() takes at most {} arguments ({} given)", function, all.size(), arguments.positional.size());
  }
  const std::size_t given = arguments.positional.size();
  values_ = std::move(arguments.positional);
  values_.resize(all.size());
  for (auto& [name, value] : arguments.named) {
    const auto at = static_cast<std::size_t>(std::find(all.begin(), all.end(), name) - all.begin());
    if (at == all.size()) python_error("{}() got an unexpected keyword argument '{}'", function, name);
    if (at < given) python_error("{}() got multiple values for argument '{}'", function, name);
    values_[at] = std::move(value);
  }
  for (std::size_t i = 0; i < required; ++i) {
    if (!has(i)) python_error("{}() missing 1 required positional argument: '{}'", function, all[i]);
  }
}

std::int64_t Bound::integer(std::size_t index, std::int64_t fallback) const {
  return has(index) ? as_integer(values_[index]) : fallback;
}

std::string Bound::text(std::size_t index, std::string_view fallback) const {
  return has(index) ? as_text(function_, values_[index]) : std::string(fallback);
}

std::int64_t as_integer(const Value& value) {
  if (value.is_integer()) return value.integer();
  if (const auto* undefined = value.object<Undefined>()) undefined->fail();
  python_error("'{}' object cannot be interpreted as an integer", type_name(value));
}

const std::string& as_text(std::string_view function, const Value& value) {
  if (value.is_text()) return value.text();
  python_error("{}() argument must be str, not {}", function, type_name(value));
}

bool has_filter(std::string_view name) {
  return filters().contains(name);
}

bool has_test(std::string_view name) {
  return tests().contains(name);
}

Value call_filter(Interpreter& interpreter, std::string_view name, const Value& value, Arguments arguments) {
  const auto found = filters().find(name);
  if (found == filters().end()) fail(FailureKind::kTemplate, "No filter named {}.", repr_text(name));
  charge(value.is_text() ? value.text().size() : 0);
  return found->second(interpreter, value, std::move(arguments));
}

bool call_test(Interpreter& interpreter, std::string_view name, const Value& value, Arguments arguments) {
  const auto found = tests().find(name);
  if (found == tests().end()) fail(FailureKind::kTemplate, "No test named {}.", repr_text(name));
  return found->second(interpreter, value, std::move(arguments));
}

std::vector<std::pair<std::string, Value>> global_functions() {
  const auto function = [](const char* name, NativeFunction::Call call, bool is_type = false) {
    return std::pair<std::string, Value>(name, Ref<Custom>(std::make_shared<NativeFunction>(name, call, is_type)));
  };
  return {function("range", make_range),
          function("dict", make_dict, true),
          function("lipsum", refuse_lorem_ipsum),
          function("cycler", make_cycler, true),
          function("joiner", make_joiner, true),
          function("namespace", make_namespace, true),
          function("raise_exception", raise_exception),
          function("strftime_now", strftime_now)};
}

}  // namespace metal_marlin::jinja
