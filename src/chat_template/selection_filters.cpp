// The filters that look at each item by itself, and at values that may be undefined.
#include <algorithm>
#include <charconv>

#include "chat_template/attribute_path.h"
#include "chat_template/attributes.h"
#include "chat_template/characters.h"
#include "chat_template/failure.h"
#include "chat_template/interpreter.h"
#include "chat_template/library.h"

namespace metal_marlin::jinja {
namespace {

Value fallback_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_default", "default_value boolean", 0, std::move(arguments));
  const bool use = value.is_undefined() || (bound.flag(1) && !truth(value));
  return !use ? value : bound.has(0) ? bound[0] : Value("");
}

Value attribute_filter(Interpreter& interpreter, const Value& value, Arguments arguments) {
  const Bound bound("do_attr", "name", 1, std::move(arguments));
  const std::string& name = as_text("attr", bound[0]);
  if (const auto* undefined = value.object<Undefined>()) undefined->fail();
  if (native_attribute(value, name)) return interpreter.attribute(value, name);
  return Value::undefined(repr_text(object_type_repr(value)) + " has no attribute " + repr_text(name));
}

int depth_of(const Value& value, const Arguments& arguments) {
  int depth = value.depth();
  for (const Value& argument : arguments.positional) depth = std::max(depth, argument.depth());
  for (const auto& [name, argument] : arguments.named) depth = std::max(depth, argument.depth());
  return depth;
}

using Transform = std::function<std::optional<Value>(const Value&)>;

// The items that `prepare` makes a function for once the first is asked for; it may leave some out.
Value generate(const Value& value, int depth, std::function<Transform()> prepare) {
  return make_iterator("generator", depth,
                       [value, prepare = std::move(prepare), source = Value(),
                        transform = Transform()]() mutable -> std::optional<Value> {
                         if (!transform) {
                           if (!truth(value)) return std::nullopt;
                           transform = prepare();
                           source = iterate(value);
                         }
                         while (const std::optional<Value> item = (*source.get<Ref<Iterator>>())->next()) {
                           if (std::optional<Value> out = transform(*item)) return out;
                         }
                         return std::nullopt;
                       });
}

Transform map_attribute(Interpreter& interpreter, Arguments arguments) {
  const Value attribute = *arguments.take("attribute");
  const Value missing = arguments.take("default").value_or(None{});
  if (!arguments.named.empty()) {
    fail(FailureKind::kTemplate, "Unexpected keyword argument {}", repr_text(arguments.named.front().first));
  }
  const AttributePath path(attribute, missing.is<None>() ? Value() : missing);
  return [&interpreter, path](const Value& item) { return std::optional(path.of(interpreter, item)); };
}

Value map_filter(Interpreter& interpreter, const Value& value, Arguments arguments) {
  const int depth = depth_of(value, arguments);
  return generate(value, depth, [&interpreter, arguments = std::move(arguments)]() -> Transform {
    const bool by_attribute = std::any_of(arguments.named.begin(), arguments.named.end(),
                                          [](const auto& named) { return named.first == "attribute"; });
    if (arguments.positional.empty() && by_attribute) return map_attribute(interpreter, arguments);
    if (arguments.positional.empty()) fail(FailureKind::kTemplate, "map requires a filter argument");
    Arguments rest = arguments;
    const Value name = rest.positional.front();
    rest.positional.erase(rest.positional.begin());
    return [&interpreter, name, rest](const Value& item) {
      if (!name.is_text()) fail(FailureKind::kTemplate, "No filter named {}.", repr(name));
      return std::optional(call_filter(interpreter, name.text(), item, rest));
    };
  });
}

// Keeps, or drops, the items, or those whose attribute passes a test.
template <bool keep, bool by_attribute>
Value select_filter(Interpreter& interpreter, const Value& value, Arguments arguments) {
  const int depth = depth_of(value, arguments);
  return generate(value, depth, [&interpreter, arguments = std::move(arguments)]() -> Transform {
    Arguments rest = arguments;
    const auto pop = [&] {
      Value front = std::move(rest.positional.front());
      rest.positional.erase(rest.positional.begin());
      return front;
    };
    if (by_attribute && rest.positional.empty()) {
      fail(FailureKind::kTemplate, "Missing parameter for attribute name");
    }
    const AttributePath path(by_attribute ? pop() : Value(None{}));
    const Value test = rest.positional.empty() ? Value() : pop();
    return [&interpreter, path, test, rest](const Value& item) -> std::optional<Value> {
      const Value asked = path.of(interpreter, item);
      bool passes = false;
      if (test.is<Missing>()) {
        passes = truth(asked);
      } else {
        if (!test.is_text()) fail(FailureKind::kTemplate, "No test named {}.", repr(test));
        passes = call_test(interpreter, test.text(), asked, rest);
      }
      return passes == keep ? std::optional(item) : std::nullopt;
    };
  });
}

}  // namespace

std::vector<std::string> split_at(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (;;) {
    const std::size_t end = text.find(separator);
    parts.emplace_back(text.substr(0, end));
    if (end == text.npos) return parts;
    text.remove_prefix(end + 1);
  }
}

Value case_key(const Value& value, bool case_sensitive) {
  return !case_sensitive && value.is_text() ? Value(lower(value.text())) : value;
}

AttributePath::AttributePath(const Value& attribute, Value fallback) : fallback_(std::move(fallback)) {
  if (attribute.is<None>()) return;
  if (!attribute.is_text()) {
    parts_.push_back(attribute);
    return;
  }
  for (const std::string& part : split_at(attribute.text(), '.')) {
    std::int64_t index = 0;
    const char* const end = part.data() + part.size();
    const auto result = std::from_chars(part.data(), end, index);
    const bool number = result.ec == std::errc() && result.ptr == end && !part.starts_with('-');
    parts_.push_back(number ? Value(index) : Value(part));
  }
}

Value AttributePath::of(Interpreter& interpreter, const Value& item) const {
  Value value = item;
  for (const Value& part : parts_) {
    value = interpreter.item(value, part);
    if (value.is_undefined() && !fallback_.is<Missing>()) value = fallback_;
  }
  return value;
}

std::vector<Filter> selection_filters() {
  return {{"attr", attribute_filter},
          {"d", fallback_filter},
          {"default", fallback_filter},
          {"map", map_filter},
          {"reject", select_filter<false, false>},
          {"rejectattr", select_filter<false, true>},
          {"select", select_filter<true, false>},
          {"selectattr", select_filter<true, true>}};
}

}  // namespace metal_marlin::jinja
