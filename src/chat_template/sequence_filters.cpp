// The filters that order, group and cut sequences.
#include <algorithm>
#include <set>

#include "chat_template/attribute_path.h"
#include "chat_template/attributes.h"
#include "chat_template/characters.h"
#include "chat_template/failure.h"
#include "chat_template/library.h"
#include "chat_template/operators.h"

namespace metal_marlin::jinja {
namespace {

Value first_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_first", "", 0, std::move(arguments));
  const Value iterator = iterate(value);
  const std::optional<Value> item = (*iterator.get<Ref<Iterator>>())->next();
  return item ? *item : Value::undefined("No first item, sequence was empty.");
}

Value last_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_last", "", 0, std::move(arguments));
  if (value.is<Ref<Iterator>>() || !is_iterable(value)) {
    python_error("'{}' object is not reversible", type_name(value));
  }
  if (value.is_text() || value.is<Ref<const Sequence>>() || value.is<Ref<const Range>>()) {
    if (auto item = element(value, -1)) return *std::move(item);
  } else if (const std::vector<Value> items = elements(value); !items.empty()) {
    return items.back();
  }
  return Value::undefined("No last item, sequence was empty.");
}

Value reverse_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_reverse", "", 0, std::move(arguments));
  if (value.is_text()) return slice(value, None{}, None{}, -1);
  if (!is_iterable(value)) fail(FailureKind::kTemplate, "argument must be iterable");
  std::vector<Value> items = elements(value);
  std::reverse(items.begin(), items.end());
  Value out = Value::list(std::move(items));
  if (value.is<Ref<Iterator>>()) return out;
  const Value iterator = iterate(out);
  return make_iterator("reversed", value.depth(), [iterator] { return (*iterator.get<Ref<Iterator>>())->next(); });
}

Value list_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_list", "", 0, std::move(arguments));
  return Value::list(elements(value));
}

Value join_filter(Interpreter& interpreter, const Value& value, Arguments arguments) {
  const Bound bound("do_join", "d attribute", 0, std::move(arguments));
  const std::string separator = bound.has(0) ? str(bound[0]) : "";
  const AttributePath path(bound.given(1) ? bound[1] : Value(None{}));
  const Value iterator = iterate(value);
  std::string out;
  bool begun = false;
  while (const std::optional<Value> item = (*iterator.get<Ref<Iterator>>())->next()) {
    if (std::exchange(begun, true)) out += separator;
    out += str(path.of(interpreter, *item));
    check_size(out.size());
  }
  return out;
}

Value sum_filter(Interpreter& interpreter, const Value& value, Arguments arguments) {
  const Bound bound("do_sum", "attribute start", 0, std::move(arguments));
  const AttributePath path(bound.given(0) ? bound[0] : Value(None{}));
  Value total = bound.has(1) ? bound[1] : Value(0);
  if (total.is_text()) python_error("sum() can't sum strings [use ''.join(seq) instead]");
  for (const Value& item : elements(value)) total = binary(Operator::kAdd, total, path.of(interpreter, item));
  return total;
}

// Sorts by keys, and leaves equal ones in their order.
using Keyed = std::pair<Value, Value>;
std::vector<Value> sorted(std::vector<Keyed> items, bool backwards) {
  const auto before = [](const Keyed& a, const Keyed& b) { return less(a.first, b.first); };
  if (backwards) std::reverse(items.begin(), items.end());
  std::stable_sort(items.begin(), items.end(), before);
  if (backwards) std::reverse(items.begin(), items.end());
  std::vector<Value> out;
  for (Keyed& item : items) out.push_back(std::move(item.second));
  return out;
}

Value sort_filter(Interpreter& interpreter, const Value& value, Arguments arguments) {
  const Bound bound("do_sort", "reverse case_sensitive attribute", 0, std::move(arguments));
  std::vector<AttributePath> paths;
  if (bound.has(2) && bound[2].is_text()) {
    for (const std::string& part : split_at(bound[2].text(), ',')) paths.emplace_back(part);
  } else {
    paths.emplace_back(bound.given(2) ? bound[2] : Value(None{}));
  }
  std::vector<Keyed> items;
  for (const Value& item : elements(value)) {
    std::vector<Value> key;
    for (const AttributePath& path : paths) key.push_back(path.key_of(interpreter, item, bound.flag(1)));
    items.emplace_back(Value::list(std::move(key)), item);
  }
  return Value::list(sorted(std::move(items), bound.flag(0)));
}

Value sort_dict_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_dictsort", "case_sensitive by reverse", 0, std::move(arguments));
  const std::string by = bound.text(1, "key");
  if (by != "key" && by != "value") {
    fail(FailureKind::kTemplate, "You can only sort by either \"key\" or \"value\"");
  }
  if (const auto* undefined = value.object<Undefined>()) undefined->fail();
  const auto* const dict = value.object<Dict>();
  if (dict == nullptr) python_error("'{}' object has no attribute 'items'", type_name(value));
  std::vector<Keyed> items;
  for (const auto& [key, item] : dict->items()) {
    items.emplace_back(case_key(by == "key" ? key : item, bound.flag(0)), Value::tuple({key, item}));
  }
  return Value::list(sorted(std::move(items), bound.flag(2)));
}

// The least, or the greatest: the first of those that are equal.
template <bool greatest>
Value extreme_filter(Interpreter& interpreter, const Value& value, Arguments arguments) {
  const Bound bound(greatest ? "do_max" : "do_min", "case_sensitive attribute", 0, std::move(arguments));
  const AttributePath path(bound.given(1) ? bound[1] : Value(None{}));
  std::optional<Keyed> best;
  for (const Value& item : elements(value)) {
    Value key = path.key_of(interpreter, item, bound.flag(0));
    if (!best || (greatest ? less(best->first, key, ">") : less(key, best->first))) best.emplace(std::move(key), item);
  }
  return best ? best->second : Value::undefined("No aggregated item, sequence was empty.");
}

Value unique_filter(Interpreter& interpreter, const Value& value, Arguments arguments) {
  const Bound bound("do_unique", "case_sensitive attribute", 0, std::move(arguments));
  const AttributePath path(bound.given(1) ? bound[1] : Value(None{}));
  const Value source = iterate(value);
  const bool cases = bound.flag(0);
  auto seen = std::make_shared<std::unordered_multimap<std::size_t, Value>>();
  return make_iterator("generator", value.depth(), [&interpreter, path, source, cases, seen]() -> std::optional<Value> {
    while (std::optional<Value> item = (*source.get<Ref<Iterator>>())->next()) {
      const Value key = path.key_of(interpreter, *item, cases);
      const std::size_t hash = hash_of(key);
      const auto [begin, end] = seen->equal_range(hash);
      if (std::any_of(begin, end, [&](const auto& there) { return equal(there.second, key); })) continue;
      seen->emplace(hash, key);
      return item;
    }
    return std::nullopt;
  });
}

Value group_tuple(const Value& grouper, std::vector<Value> items) {
  auto group = std::make_shared<Sequence>(std::vector<Value>{grouper, Value::list(std::move(items))}, true);
  group->group = true;
  return Ref<const Sequence>(std::move(group));
}

Value group_by_filter(Interpreter& interpreter, const Value& value, Arguments arguments) {
  const Bound bound("do_groupby", "attribute default case_sensitive", 1, std::move(arguments));
  const AttributePath path(bound[0], bound.given(1) ? bound[1] : Value());
  const bool cases = bound.flag(2);
  std::vector<Keyed> keyed;
  for (const Value& item : elements(value)) keyed.emplace_back(path.key_of(interpreter, item, cases), item);
  std::vector<Value> groups;
  std::vector<Value> group;
  Value key;
  const auto flush = [&] {
    if (!group.empty()) groups.push_back(group_tuple(path.of(interpreter, group.front()), group));
    group.clear();
  };
  for (const Value& item : sorted(std::move(keyed), false)) {
    Value next = path.key_of(interpreter, item, cases);
    if (!group.empty() && !equal(key, next)) flush();
    key = std::move(next);
    group.push_back(item);
  }
  flush();
  return Value::list(std::move(groups));
}

Value batch_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_batch", "linecount fill_with", 1, std::move(arguments));
  const Value& count = bound[0];
  const Value fill = bound.has(1) ? bound[1] : Value(None{});
  const Value source = iterate(value);
  auto pending = std::make_shared<std::vector<Value>>();
  const int depth = std::max(value.depth(), fill.depth()) + 1;
  return make_iterator("generator", depth, [count, fill, source, pending]() -> std::optional<Value> {
    std::vector<Value> row = std::exchange(*pending, {});
    while (std::optional<Value> item = (*source.get<Ref<Iterator>>())->next()) {
      if (equal(Value(static_cast<std::int64_t>(row.size())), count)) {
        *pending = {*item};
        return Value::list(std::move(row));
      }
      row.push_back(std::move(*item));
    }
    if (row.empty()) return std::nullopt;
    const Value size = static_cast<std::int64_t>(row.size());
    if (!fill.is<None>() && less(size, count)) {
      const auto full = static_cast<std::size_t>(as_integer(count));
      check_size(full > kMaxMemory ? full : full * sizeof(Value));
      row.resize(full, fill);
    }
    return Value::list(std::move(row));
  });
}

Value slices_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_slice", "slices fill_with", 1, std::move(arguments));
  const std::int64_t count = as_integer(bound[0]);
  const Value fill = bound.has(1) ? bound[1] : Value(None{});
  const int depth = std::max(value.depth(), fill.depth()) + 1;
  return make_iterator(
      "generator", depth,
      [value, count, fill, number = std::int64_t{0}, offset = std::int64_t{0}]() mutable -> std::optional<Value> {
        const std::vector<Value> items = elements(value);
        if (count == 0) python_error("integer division or modulo by zero");
        if (number >= count) return std::nullopt;
        const auto length = static_cast<std::int64_t>(items.size());
        const std::int64_t start = offset + number * (length / count);
        const bool extra = number < length % count;
        if (extra) ++offset;
        const std::int64_t end = offset + (++number) * (length / count);
        std::vector<Value> row(items.begin() + start, items.begin() + end);
        if (!fill.is<None>() && !extra) row.push_back(fill);
        return Value::list(std::move(row));
      });
}

Value items_filter(Interpreter& /*interpreter*/, const Value& value, Arguments arguments) {
  const Bound bound("do_items", "", 0, std::move(arguments));
  return make_iterator("generator", value.depth(), [value, inner = Value()]() mutable -> std::optional<Value> {
    if (inner.is<Missing>()) {
      const auto* const dict = value.get<Ref<const Dict>>();
      if (dict == nullptr && !value.is_undefined()) python_error("Can only get item pairs from a mapping.");
      inner = dict ? iterate(std::make_shared<const DictView>(*dict, View::kItems)) : iterate(value);
    }
    return (*inner.get<Ref<Iterator>>())->next();
  });
}

}  // namespace

std::vector<Filter> sequence_filters() {
  return {{"batch", batch_filter},       {"dictsort", sort_dict_filter},
          {"first", first_filter},       {"groupby", group_by_filter},
          {"items", items_filter},       {"join", join_filter},
          {"last", last_filter},         {"list", list_filter},
          {"max", extreme_filter<true>}, {"min", extreme_filter<false>},
          {"reverse", reverse_filter},   {"slice", slices_filter},
          {"sort", sort_filter},         {"sum", sum_filter},
          {"unique", unique_filter}};
}

}  // namespace metal_marlin::jinja
