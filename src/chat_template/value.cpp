#include "chat_template/value.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <functional>

#include "base/overloaded.h"
#include "base/unicode.h"
#include "chat_template/characters.h"
#include "chat_template/failure.h"

namespace metal_marlin::jinja {
namespace {

int deepest(const std::vector<Value>& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  return depth;
}

int deepest(const Dict::Items& items) {
  int depth = 0;
  for (const auto& [key, value] : items) depth = std::max({depth, key.depth(), value.depth()});
  return depth;
}

std::size_t mix(std::size_t seed, std::size_t hash) {
  return seed * 1099511628211U ^ hash;
}

}  // namespace

Object::Object(std::size_t bytes, int depth) : budget_(Budget::current()), bytes_(bytes), depth_(depth + 1) {
  if (depth_ > kMaxDepth) fail(FailureKind::kUnsupported, "values nested more than {} deep", kMaxDepth);
  if (budget_ != nullptr) budget_->take(bytes_);
}

Object::~Object() {
  if (budget_ != nullptr) budget_->give_back(bytes_);
}

Value::Value(std::string text) : variant_(std::make_shared<const Text>(std::move(text), false)) {}

Value Value::safe_text(std::string text) {
  return {std::make_shared<const Text>(std::move(text), true)};
}

Value Value::undefined(std::string message, bool security) {
  return {std::make_shared<const Undefined>(std::move(message), security)};
}

Value Value::list(std::vector<Value> items) {
  return {std::make_shared<const Sequence>(std::move(items), false)};
}

Value Value::tuple(std::vector<Value> items) {
  return {std::make_shared<const Sequence>(std::move(items), true)};
}

bool Value::is_safe() const {
  const Text* const text = object<Text>();
  return text != nullptr && text->safe;
}

const std::string& Value::text() const {
  return object<Text>()->bytes;
}

std::int64_t Value::integer() const {
  const bool* const boolean = get<bool>();
  return boolean ? static_cast<std::int64_t>(*boolean) : std::get<std::int64_t>(variant_);
}

double Value::number() const {
  const double* const real = get<double>();
  return real ? *real : static_cast<double>(integer());
}

int Value::depth() const {
  return std::visit(
      [](const auto& value) {
        if constexpr (requires { value->depth(); }) {
          return value->depth();
        } else {
          return 0;
        }
      },
      variant_);
}

void Undefined::fail() const {
  throw Failure(security_ ? FailureKind::kSecurity : FailureKind::kUndefined, message_);
}

Text::Text(std::string text, bool is_safe)
    : Object(sizeof(Text) + text.size()), bytes(std::move(text)), safe(is_safe), length(count_characters(bytes)) {}

Sequence::Sequence(std::vector<Value> values, bool is_tuple)
    : Object(sizeof(Sequence) + values.size() * sizeof(Value), deepest(values)),
      items(std::move(values)),
      tuple(is_tuple) {}

Dict::Dict(Items items) : Object(sizeof(Dict) + items.size() * (2 * sizeof(Value) + 48), deepest(items)) {
  items_.reserve(items.size());
  for (auto& item : items) {
    const std::size_t hash = hash_of(item.first);
    if (const auto found = place(hash, item.first)) {
      items_[*found].second = std::move(item.second);
    } else {
      places_.emplace(hash, items_.size());
      items_.push_back(std::move(item));
    }
  }
}

std::optional<std::size_t> Dict::place(std::size_t hash, const Value& key) const {
  const auto [begin, end] = places_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    if (equal(items_[it->second].first, key)) return it->second;
  }
  return std::nullopt;
}

const Value* Dict::find(const Value& key) const {
  const auto found = place(hash_of(key), key);
  return found ? &items_[*found].second : nullptr;
}

const Value* Dict::find(std::string_view key) const {
  const auto [begin, end] = places_.equal_range(std::hash<std::string_view>()(key));
  for (auto it = begin; it != end; ++it) {
    const Value& there = items_[it->second].first;
    if (there.is_text() && there.text() == key) return &items_[it->second].second;
  }
  return nullptr;
}

DictView::DictView(Ref<const Dict> of, View which)
    : Object(sizeof(DictView), of->depth()), dict(std::move(of)), view(which) {}

std::vector<Value> DictView::items() const {
  std::vector<Value> out;
  out.reserve(dict->items().size());
  for (const auto& [key, value] : dict->items()) {
    out.push_back(view == View::kKeys ? key : view == View::kValues ? value : Value::tuple({key, value}));
  }
  return out;
}

static std::int64_t range_length(std::int64_t start, std::int64_t stop, std::int64_t step) {
  const bool up = step > 0;
  if (up ? start >= stop : start <= stop) return 0;
  const auto low = static_cast<std::uint64_t>(up ? start : stop);
  const auto high = static_cast<std::uint64_t>(up ? stop : start);
  const std::uint64_t stride = up ? static_cast<std::uint64_t>(step) : 0 - static_cast<std::uint64_t>(step);
  const std::uint64_t length = (high - low - 1) / stride + 1;
  if (length > kMaxRange) {
    python_error("Range too big. The sandbox blocks ranges larger than MAX_RANGE ({}).", kMaxRange);
  }
  return static_cast<std::int64_t>(length);
}

Range::Range(std::int64_t first, std::int64_t end, std::int64_t stride)
    : Object(sizeof(Range)), start(first), stop(end), step(stride), length(range_length(first, end, stride)) {}

std::optional<Value> Iterator::next() {
  if (ended_) return std::nullopt;
  charge(0);
  std::optional<Value> value = next_();
  ended_ = !value.has_value();
  return value;
}

std::optional<Value> Arguments::take(std::string_view name) {
  for (auto it = named.begin(); it != named.end(); ++it) {
    if (it->first != name) continue;
    Value value = std::move(it->second);
    named.erase(it);
    return value;
  }
  return std::nullopt;
}

std::optional<Value> Custom::attribute(std::string_view /*name*/) {
  return std::nullopt;
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): those that override it move them
Value Custom::call(Interpreter& /*interpreter*/, Arguments /*arguments*/) {
  python_error("'{}' object is not callable", type());
}

std::string Custom::repr() {
  python_error("a '{}' object cannot be printed: what Python prints is its address", type());
}

std::string type_name(const Value& value) {
  return std::visit(
      Overloaded{[](Missing) -> std::string { return "missing"; }, [](None) -> std::string { return "NoneType"; },
                 [](bool) -> std::string { return "bool"; }, [](std::int64_t) -> std::string { return "int"; },
                 [](double) -> std::string { return "float"; },
                 [](const Ref<const Undefined>&) -> std::string { return "Undefined"; },
                 [](const Ref<const Text>& text) -> std::string { return text->safe ? "Markup" : "str"; },
                 [](const Ref<const Sequence>& items) -> std::string { return items->tuple ? "tuple" : "list"; },
                 [](const Ref<const Dict>&) -> std::string { return "dict"; },
                 [](const Ref<const DictView>& view) -> std::string {
                   return view->view == View::kKeys     ? "dict_keys"
                          : view->view == View::kValues ? "dict_values"
                                                        : "dict_items";
                 },
                 [](const Ref<const Range>&) -> std::string { return "range"; },
                 [](const Ref<Iterator>& iterator) { return iterator->type; },
                 [](const Ref<Custom>& custom) { return custom->type(); }},
      value.variant());
}

std::string object_type_repr(const Value& value) {
  if (value.is<None>()) return "None";
  return (value.is_safe() ? "markupsafe.Markup" : type_name(value)) + " object";
}

bool truth(const Value& value) {
  return std::visit(Overloaded{[](Missing) { return false; }, [](None) { return false; }, [](bool x) { return x; },
                               [](std::int64_t x) { return x != 0; }, [](double x) { return x != 0; },
                               [](const Ref<const Undefined>&) { return false; },
                               [](const Ref<const Text>& text) { return !text->bytes.empty(); },
                               [](const Ref<const Sequence>& items) { return !items->items.empty(); },
                               [](const Ref<const Dict>& dict) { return !dict->items().empty(); },
                               [](const Ref<const DictView>& view) { return !view->dict->items().empty(); },
                               [](const Ref<const Range>& range) { return range->length > 0; },
                               [](const Ref<Iterator>&) { return true; }, [](const Ref<Custom>&) { return true; }},
                    value.variant());
}

static bool equal_items(const std::vector<Value>& a, const std::vector<Value>& b) {
  charge(a.size() * 16);
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Value& x, const Value& y) { return same(x, y) || equal(x, y); });
}

static bool equal_dicts(const Dict& a, const Dict& b) {
  if (a.items().size() != b.items().size()) return false;
  charge(a.items().size() * 16);
  return std::all_of(a.items().begin(), a.items().end(), [&](const auto& item) {
    const Value* const other = b.find(item.first);
    return other != nullptr && (same(item.second, *other) || equal(item.second, *other));
  });
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_integer() && b.is_integer()) return a.integer() == b.integer();
    return a.number() == b.number();
  }
  if (a.variant().index() != b.variant().index()) return false;
  if (a.is<None>() || a.is_undefined()) return true;
  if (a.is_text()) {
    charge(std::min(a.text().size(), b.text().size()));
    return a.text() == b.text();
  }
  if (const auto* x = a.object<Sequence>()) {
    const auto* y = b.object<Sequence>();
    return x == y || (x->tuple == y->tuple && equal_items(x->items, y->items));
  }
  if (const auto* x = a.object<Dict>()) return x == b.object<Dict>() || equal_dicts(*x, *b.object<Dict>());
  if (const auto* x = a.object<Range>()) {
    const auto* y = b.object<Range>();
    return x->length == y->length && (x->length == 0 || x->start == y->start) && (x->length <= 1 || x->step == y->step);
  }
  if (const auto* x = a.object<DictView>()) {
    const auto* y = b.object<DictView>();
    return x == y || (x->view == y->view && x->view != View::kValues && equal_items(x->items(), y->items()));
  }
  return same(a, b);
}

bool same(const Value& a, const Value& b) {
  if (a.variant().index() != b.variant().index()) return false;
  return std::visit(
      Overloaded{
          [&](Missing) { return true; }, [&](None) { return true; },
          [&](bool x) { return x == std::get<bool>(b.variant()); },
          [&](std::int64_t x) { return x == std::get<std::int64_t>(b.variant()); },
          [&](double x) { return std::bit_cast<std::uint64_t>(x) == std::bit_cast<std::uint64_t>(*b.get<double>()); },
          [&](const Ref<const Text>& x) { return x->bytes == b.text() && x->safe == b.is_safe(); },
          [&](const auto& x) { return x == std::get<std::decay_t<decltype(x)>>(b.variant()); }},
      a.variant());
}

static bool less_items(const std::vector<Value>& a, const std::vector<Value>& b, const char* sign) {
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    charge(0);
    if (!same(a[i], b[i]) && !equal(a[i], b[i])) return less(a[i], b[i], sign);
  }
  return a.size() < b.size();
}

bool less(const Value& a, const Value& b, const char* sign) {
  if (a.is_number() && b.is_number()) {
    return a.is_integer() && b.is_integer() ? a.integer() < b.integer() : a.number() < b.number();
  }
  if (const auto* undefined = a.object<Undefined>()) undefined->fail();
  if (const auto* undefined = b.object<Undefined>()) undefined->fail();
  if (a.is_text() && b.is_text()) {
    charge(std::min(a.text().size(), b.text().size()));
    return a.text() < b.text();  // UTF-8 has the order of the characters
  }
  const auto* const x = a.object<Sequence>();
  const auto* const y = b.object<Sequence>();
  if (x != nullptr && y != nullptr && x->tuple == y->tuple) return less_items(x->items, y->items, sign);
  python_error("'{}' not supported between instances of '{}' and '{}'", sign, type_name(a), type_name(b));
}

static std::size_t hash_number(const Value& value) {
  if (value.is_integer()) return std::hash<std::int64_t>()(value.integer());
  const double real = value.number();
  const bool whole = std::abs(real) < 9e18 && real == std::floor(real);
  return whole ? std::hash<std::int64_t>()(static_cast<std::int64_t>(real)) : std::hash<double>()(real);
}

std::size_t hash_of(const Value& value) {
  if (value.is_number()) return hash_number(value);
  if (value.is_text()) return std::hash<std::string_view>()(value.text());
  const auto* const items = value.object<Sequence>();
  if ((items != nullptr && !items->tuple) || value.is<Ref<const Dict>>() || value.is<Ref<const DictView>>()) {
    python_error("unhashable type: '{}'", type_name(value));
  }
  std::size_t hash = value.variant().index();
  if (items != nullptr) {
    for (const Value& item : items->items) hash = mix(hash, hash_of(item));
  }
  if (const auto* custom = value.get<Ref<Custom>>()) hash = mix(hash, std::hash<const void*>()(custom->get()));
  return hash;
}

std::string repr_double(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[32];
  const auto result = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
  std::string shortest(buffer, result.ptr);
  const std::size_t mark = shortest.find('e');
  const int exponent = std::atoi(shortest.c_str() + mark + 1);
  if (exponent < -4 || exponent >= 16) return shortest;
  std::string digits;
  for (const char c : shortest.substr(0, mark)) {
    if (c >= '0' && c <= '9') digits += c;
  }
  std::string out = std::signbit(value) ? "-" : "";
  const auto point = static_cast<std::size_t>(std::max(exponent, 0)) + 1;  // digits before it
  if (exponent < 0) digits.insert(0, static_cast<std::size_t>(-exponent), '0');
  if (digits.size() < point) digits.append(point - digits.size(), '0');
  out += digits.substr(0, point) + "." + (digits.size() > point ? digits.substr(point) : "0");
  return out;
}

std::string repr_text(std::string_view text) {
  const bool doubles = text.find('\'') != text.npos && text.find('"') == text.npos;
  const char quote = doubles ? '"' : '\'';
  std::string out(1, quote);
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = next_character(text, at);
    if (c == U'\\' || c == static_cast<char32_t>(quote)) {
      out += '\\';
      append_utf8(c, out);
    } else if (c == U'\n' || c == U'\r' || c == U'\t') {
      out += c == U'\n' ? "\\n" : c == U'\r' ? "\\r" : "\\t";
    } else if (is_printable(c)) {
      append_utf8(c, out);
    } else {
      const auto code = static_cast<std::uint32_t>(c);
      out += code < 0x100     ? fmt::format("\\x{:02x}", code)
             : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                              : fmt::format("\\U{:08x}", code);
    }
  }
  out += quote;
  return out;
}

static std::string repr_items(const std::vector<Value>& items, std::string_view open, std::string_view close) {
  std::string out(open);
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += ", ";
    out += repr(items[i]);
    check_size(out.size());
  }
  return out.append(close);
}

static std::string repr_sequence(const Sequence& value) {
  if (!value.tuple) return repr_items(value.items, "[", "]");
  return repr_items(value.items, "(", value.items.size() == 1 ? ",)" : ")");
}

static std::string repr_dict(const Dict& dict) {
  std::string out = "{";
  for (const auto& [key, value] : dict.items()) {
    if (out.size() > 1) out += ", ";
    out += repr(key) + ": " + repr(value);
    check_size(out.size());
  }
  return out + "}";
}

static std::string repr_range(const Range& range) {
  return range.step == 1 ? fmt::format("range({}, {})", range.start, range.stop)
                         : fmt::format("range({}, {}, {})", range.start, range.stop, range.step);
}

std::string repr(const Value& value) {
  charge(0);
  return std::visit(
      Overloaded{
          [](Missing) -> std::string { return "missing"; }, [](None) -> std::string { return "None"; },
          [](bool x) -> std::string { return x ? "True" : "False"; }, [](std::int64_t x) { return std::to_string(x); },
          [](double x) { return repr_double(x); },
          [](const Ref<const Undefined>&) -> std::string { return "Undefined"; },
          [](const Ref<const Text>& text) {
            return text->safe ? "Markup(" + repr_text(text->bytes) + ")" : repr_text(text->bytes);
          },
          [](const Ref<const Sequence>& items) { return repr_sequence(*items); },
          [](const Ref<const Dict>& dict) { return repr_dict(*dict); },
          [&](const Ref<const DictView>& view) { return type_name(value) + repr_items(view->items(), "([", "])"); },
          [](const Ref<const Range>& range) { return repr_range(*range); },
          [](const Ref<Iterator>& iterator) -> std::string {
            python_error("a '{}' object cannot be printed: what Python prints is its address", iterator->type);
          },
          [](const Ref<Custom>& custom) { return custom->repr(); }},
      value.variant());
}

std::string str(const Value& value) {
  if (value.is_text()) return value.text();
  if (value.is_undefined()) return "";
  return repr(value);
}

std::int64_t length_of(const Value& value) {
  if (const auto* text = value.object<Text>()) return static_cast<std::int64_t>(text->length);
  if (const auto* items = value.object<Sequence>()) return static_cast<std::int64_t>(items->items.size());
  if (const auto* dict = value.object<Dict>()) return static_cast<std::int64_t>(dict->items().size());
  if (const auto* view = value.object<DictView>()) return static_cast<std::int64_t>(view->dict->items().size());
  if (const auto* range = value.object<Range>()) return range->length;
  if (value.is_undefined()) return 0;
  if (value.is<Ref<Custom>>()) {
    if (const auto length = std::get<Ref<Custom>>(value.variant())->attribute("length")) return length->integer();
  }
  python_error("object of type '{}' has no len()", type_name(value));
}

bool is_iterable(const Value& value) {
  return value.is_text() || value.is<Ref<const Sequence>>() || value.is<Ref<const Dict>>() ||
         value.is<Ref<const DictView>>() || value.is<Ref<const Range>>() || value.is<Ref<Iterator>>() ||
         value.is_undefined();
}

std::vector<Value> elements(const Value& value) {
  std::vector<Value> out;
  if (const auto* items = value.object<Sequence>()) {
    charge(items->items.size() * 16);
    return items->items;
  }
  const Value iterator = iterate(value);
  Iterator& from = **iterator.get<Ref<Iterator>>();
  while (std::optional<Value> item = from.next()) {
    out.push_back(std::move(*item));
    if (out.size() % 1024 == 0) check_size(out.size() * sizeof(Value));
  }
  return out;
}

static Value iterate_text(const Ref<const Text>& text) {
  return make_iterator("str_iterator", text->depth(), [text, at = std::size_t{0}]() mutable -> std::optional<Value> {
    if (at >= text->bytes.size()) return std::nullopt;
    const std::size_t begin = at;
    next_character(text->bytes, at);
    return Value(text->bytes.substr(begin, at - begin));
  });
}

Value iterate(const Value& value) {
  if (value.is<Ref<Iterator>>()) return value;
  if (value.is_undefined()) {
    return make_iterator("generator", 0, []() -> std::optional<Value> { return std::nullopt; });
  }
  if (const auto* text = value.get<Ref<const Text>>()) return iterate_text(*text);
  if (const auto* dict = value.get<Ref<const Dict>>()) {
    return iterate(Value(std::make_shared<const DictView>(*dict, View::kKeys)));
  }
  if (const auto* view = value.object<DictView>()) return iterate(Value::list(view->items()));
  if (const auto* items = value.get<Ref<const Sequence>>()) {
    return make_iterator("list_iterator", value.depth(),
                         [items = *items, at = std::size_t{0}]() mutable -> std::optional<Value> {
                           return at < items->items.size() ? std::optional(items->items[at++]) : std::nullopt;
                         });
  }
  if (const auto* range = value.get<Ref<const Range>>()) {
    return make_iterator("range_iterator", value.depth(),
                         [range = *range, at = std::int64_t{0}]() mutable -> std::optional<Value> {
                           return at < range->length ? std::optional<Value>(range->at(at++)) : std::nullopt;
                         });
  }
  python_error("'{}' object is not iterable", type_name(value));
}

bool contains(const Value& container, const Value& value) {
  if (container.is_text()) {
    if (!value.is_text()) {
      python_error("'in <string>' requires string as left operand, not {}", type_name(value));
    }
    charge(container.text().size());
    return container.text().find(value.text()) != std::string::npos;
  }
  if (const auto* dict = container.object<Dict>()) return dict->find(value) != nullptr;
  if (const auto* view = container.object<DictView>(); view != nullptr && view->view == View::kKeys) {
    return view->dict->find(value) != nullptr;
  }
  if (!is_iterable(container)) python_error("argument of type '{}' is not iterable", type_name(container));
  const Value iterator = iterate(container);
  Iterator& from = **iterator.get<Ref<Iterator>>();
  while (const std::optional<Value> item = from.next()) {
    if (same(*item, value) || equal(*item, value)) return true;
  }
  return false;
}

}  // namespace metal_marlin::jinja
