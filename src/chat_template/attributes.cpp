#include "chat_template/attributes.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <span>

#include "chat_template/failure.h"
#include "chat_template/library.h"
#include "chat_template/objects.h"

namespace metal_marlin::jinja {
namespace {

using Names = std::span<const std::string_view>;

constexpr std::array<std::string_view, 24> kOfAll = {
    "__class__",   "__delattr__", "__dir__",           "__doc__",         "__eq__",
    "__format__",  "__ge__",      "__getattribute__",  "__getstate__",    "__gt__",
    "__hash__",    "__init__",    "__init_subclass__", "__le__",          "__lt__",
    "__ne__",      "__new__",     "__reduce__",        "__reduce_ex__",   "__repr__",
    "__setattr__", "__sizeof__",  "__str__",           "__subclasshook__"};
constexpr std::array<std::string_view, 3> kOfLists = {"copy", "count", "index"};
constexpr std::array<std::string_view, 8> kListChanges = {"append", "clear",  "extend",  "insert",
                                                          "pop",    "remove", "reverse", "sort"};
constexpr std::array<std::string_view, 2> kOfTuples = {"count", "index"};
constexpr std::array<std::string_view, 6> kOfDicts = {"copy", "fromkeys", "get", "items", "keys", "values"};
constexpr std::array<std::string_view, 5> kDictChanges = {"clear", "pop", "popitem", "setdefault", "update"};
constexpr std::array<std::string_view, 3> kOfIntegers = {"bit_count", "bit_length", "conjugate"};
constexpr std::array<std::string_view, 2> kOfFloats = {"conjugate", "is_integer"};
constexpr std::array<std::string_view, 2> kOfLoops = {"changed", "cycle"};
constexpr std::array<std::string_view, 2> kOfCyclers = {"next", "reset"};

bool is_one_of(std::string_view name, Names names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool has_method(const Value& value, const std::string& name) {
  if (is_one_of(name, kOfAll) || modifies(value, name)) return true;
  if (value.is_text()) return has_text_method(name);
  if (const auto* items = value.object<Sequence>()) return is_one_of(name, items->tuple ? Names(kOfTuples) : kOfLists);
  if (value.is<Ref<const Dict>>()) return is_one_of(name, kOfDicts);
  if (value.is<Ref<const Range>>()) return is_one_of(name, kOfTuples);
  if (value.is_integer()) return is_one_of(name, kOfIntegers);
  if (value.is<double>()) return is_one_of(name, kOfFloats);
  if (value.custom<Loop>() != nullptr) return is_one_of(name, kOfLoops);
  if (value.custom<Cycler>() != nullptr) return is_one_of(name, kOfCyclers);
  return false;
}

std::optional<Value> number_attribute(const Value& value, std::string_view name) {
  const bool integer = value.is_integer();
  if (name == "real" || (integer && name == "numerator")) return integer ? Value(value.integer()) : value;
  if (name == "imag") return integer ? Value(std::int64_t{0}) : Value(0.0);
  if (integer && name == "denominator") return Value(std::int64_t{1});
  return std::nullopt;
}

std::optional<Value> member(const Value& value, std::string_view name) {
  if (value.is_number()) return number_attribute(value, name);
  if (const auto* items = value.object<Sequence>(); items != nullptr && items->group) {
    if (name == "grouper") return items->items[0];
    if (name == "list") return items->items[1];
  }
  if (const auto* range = value.object<Range>()) {
    if (name == "start") return Value(range->start);
    if (name == "stop") return Value(range->stop);
    if (name == "step") return Value(range->step);
  }
  if (const auto* custom = value.get<Ref<Custom>>()) return (*custom)->attribute(name);
  return std::nullopt;
}

Value index_of(const std::vector<Value>& items, const Value& value, const Bound& bound) {
  const auto size = static_cast<std::int64_t>(items.size());
  const auto clamp = [&](std::int64_t at) { return std::clamp<std::int64_t>(at < 0 ? at + size : at, 0, size); };
  const std::int64_t end = clamp(bound.integer(2, size));
  for (std::int64_t i = clamp(bound.integer(1, 0)); i < end; ++i) {
    const Value& item = items[static_cast<std::size_t>(i)];
    if (same(item, value) || equal(item, value)) return i;
  }
  python_error("{} is not in list", repr(value));
}

Value call_sequence_method(const Value& self, std::string_view name, Arguments arguments) {
  if (name == "copy") {
    const Bound bound("copy", "", 0, std::move(arguments));
    return self;
  }
  const std::vector<Value> items = elements(self);
  if (name == "index") {
    const Bound bound("index", "value start stop", 1, std::move(arguments));
    return index_of(items, bound[0], bound);
  }
  const Bound bound("count", "value", 1, std::move(arguments));
  return static_cast<std::int64_t>(std::count_if(
      items.begin(), items.end(), [&](const Value& item) { return same(item, bound[0]) || equal(item, bound[0]); }));
}

Value call_dict_method(const Value& self, std::string_view name, Arguments arguments) {
  const auto& dict = *self.get<Ref<const Dict>>();
  if (name == "get") {
    const Bound bound("get", "key default", 1, std::move(arguments));
    const Value* const found = dict->find(bound[0]);
    return found ? *found : bound.has(1) ? bound[1] : Value(None{});
  }
  if (name == "fromkeys") {
    const Bound bound("fromkeys", "iterable value", 1, std::move(arguments));
    Dict::Items items;
    for (Value& key : elements(bound[0])) items.emplace_back(std::move(key), bound.has(1) ? bound[1] : Value(None{}));
    return std::make_shared<const Dict>(std::move(items));
  }
  const Bound bound(name, "", 0, std::move(arguments));
  if (name == "copy") return self;
  const View view = name == "keys" ? View::kKeys : name == "values" ? View::kValues : View::kItems;
  return std::make_shared<const DictView>(dict, view);
}

Value call_number_method(const Value& self, std::string_view name, Arguments arguments) {
  const Bound bound(name, "", 0, std::move(arguments));
  if (name == "conjugate") return self.is_integer() ? Value(self.integer()) : self;
  if (name == "is_integer") return std::isfinite(self.number()) && self.number() == std::floor(self.number());
  const std::int64_t value = self.integer();
  const std::uint64_t size = value < 0 ? 0 - static_cast<std::uint64_t>(value) : static_cast<std::uint64_t>(value);
  return name == "bit_count" ? std::int64_t{std::popcount(size)} : static_cast<std::int64_t>(std::bit_width(size));
}

}  // namespace

bool modifies(const Value& value, const std::string& name) {
  const auto* const items = value.object<Sequence>();
  if (items != nullptr) return !items->tuple && is_one_of(name, kListChanges);
  return value.is<Ref<const Dict>>() && is_one_of(name, kDictChanges);
}

std::optional<Value> native_attribute(const Value& value, const std::string& name) {
  if (has_method(value, name)) return Value(Ref<Custom>(std::make_shared<Method>(value, name)));
  return member(value, name);
}

bool is_hashable(const Value& value) {
  const auto* const items = value.object<Sequence>();
  if (items == nullptr) return !value.is<Ref<const Dict>>() && !value.is<Ref<const DictView>>();
  return items->tuple && std::all_of(items->items.begin(), items->items.end(), is_hashable);
}

Value call_method(Interpreter& interpreter, const Value& self, std::string_view name, Arguments arguments) {
  if (self.is_text()) return call_text_method(interpreter, self, name, std::move(arguments));
  if (!arguments.named.empty()) python_error("{}.{}() takes no keyword arguments", type_name(self), name);
  if (self.is<Ref<const Sequence>>() || self.is<Ref<const Range>>()) {
    return call_sequence_method(self, name, std::move(arguments));
  }
  if (self.is<Ref<const Dict>>()) return call_dict_method(self, name, std::move(arguments));
  if (self.is_number()) return call_number_method(self, name, std::move(arguments));
  if (auto* loop = self.custom<Loop>()) {
    if (name == "changed") return loop->changed(std::move(arguments.positional));
    return loop->cycle(arguments.positional);
  }
  auto* const cycler = self.custom<Cycler>();
  const Bound bound(name, "", 0, std::move(arguments));
  if (name == "next") return cycler->next();
  cycler->reset();
  return None{};
}

}  // namespace metal_marlin::jinja
