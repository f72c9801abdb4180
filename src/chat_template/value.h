// The values of a template, as Python has them: immutable, but for namespaces, loops and iterators.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "chat_template/limits.h"

namespace metal_marlin::jinja {

class Interpreter;
class Value;

// What lies on the heap is counted in the budget of the thread, and how deep it is nested is known.
class Object {
 public:
  explicit Object(std::size_t bytes, int depth = 0);
  virtual ~Object();
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  [[nodiscard]] int depth() const { return depth_; }

 private:
  Budget* budget_;
  std::size_t bytes_;
  int depth_;
};

struct Missing {};  // a variable without a value, an argument that was not given
struct None {};
class Undefined;
class Text;
class Sequence;
class Dict;
class DictView;
class Range;
class Iterator;
class Custom;

template <class T>
using Ref = std::shared_ptr<T>;

using Variant =
    std::variant<Missing, None, bool, std::int64_t, double, Ref<const Undefined>, Ref<const Text>, Ref<const Sequence>,
                 Ref<const Dict>, Ref<const DictView>, Ref<const Range>, Ref<Iterator>, Ref<Custom>>;
template <class T>
concept Alternative = std::is_constructible_v<Variant, T> && !std::is_same_v<std::remove_cvref_t<T>, Value> &&
                      !std::is_convertible_v<T, std::string_view>;

class Value {
 public:
  Value() = default;
  template <Alternative T>
  // NOLINTNEXTLINE(google-explicit-constructor,bugprone-forwarding-reference-overload): no Value is an alternative
  Value(T&& value) : variant_(std::forward<T>(value)) {}
  Value(std::string text);                                    // NOLINT(google-explicit-constructor)
  Value(std::string_view text) : Value(std::string(text)) {}  // NOLINT(google-explicit-constructor)
  Value(const char* text) : Value(std::string(text)) {}       // NOLINT(google-explicit-constructor)
  static Value safe_text(std::string text);
  static Value undefined(std::string message, bool security = false);
  static Value list(std::vector<Value> items);
  static Value tuple(std::vector<Value> items);

  template <class T>
  [[nodiscard]] bool is() const {
    return std::holds_alternative<T>(variant_);
  }
  template <class T>
  [[nodiscard]] const T* get() const {
    return std::get_if<T>(&variant_);
  }
  // The object of a type, or null.
  template <class T>
  [[nodiscard]] const T* object() const {
    const auto* ref = std::get_if<Ref<const T>>(&variant_);
    return ref ? ref->get() : nullptr;
  }
  [[nodiscard]] const Variant& variant() const { return variant_; }

  [[nodiscard]] bool is_undefined() const { return is<Ref<const Undefined>>(); }
  [[nodiscard]] bool is_text() const { return is<Ref<const Text>>(); }
  [[nodiscard]] bool is_safe() const;                                                 // text marked as HTML
  [[nodiscard]] const std::string& text() const;                                      // of a text
  [[nodiscard]] bool is_integer() const { return is<std::int64_t>() || is<bool>(); }  // a bool is one, in Python
  [[nodiscard]] std::int64_t integer() const;
  [[nodiscard]] bool is_number() const { return is_integer() || is<double>(); }
  [[nodiscard]] double number() const;
  template <class T>
  [[nodiscard]] T* custom() const;
  [[nodiscard]] int depth() const;

 private:
  Variant variant_;
};

class Undefined : public Object {
 public:
  Undefined(std::string message, bool security)
      : Object(sizeof(Undefined) + message.size()), message_(std::move(message)), security_(security) {}
  [[noreturn]] void fail() const;

 private:
  std::string message_;
  bool security_;
};

class Text : public Object {
 public:
  Text(std::string bytes, bool safe);
  const std::string bytes;
  const bool safe;
  const std::size_t length;  // in characters
  [[nodiscard]] bool ascii() const { return length == bytes.size(); }
};

class Sequence : public Object {
 public:
  Sequence(std::vector<Value> items, bool tuple);
  const std::vector<Value> items;
  const bool tuple;
  bool group = false;  // a tuple of `groupby`, with names for its two
};

class Dict : public Object {
 public:
  using Items = std::vector<std::pair<Value, Value>>;
  // Of two equal keys the first keeps its place and gets the value of the second.
  explicit Dict(Items items);
  [[nodiscard]] const Items& items() const { return items_; }
  [[nodiscard]] const Value* find(const Value& key) const;
  [[nodiscard]] const Value* find(std::string_view key) const;

 private:
  [[nodiscard]] std::optional<std::size_t> place(std::size_t hash, const Value& key) const;
  Items items_;
  std::unordered_multimap<std::size_t, std::size_t> places_;
};

enum class View { kKeys, kValues, kItems };
class DictView : public Object {
 public:
  DictView(Ref<const Dict> dict, View view);
  const Ref<const Dict> dict;
  const View view;
  [[nodiscard]] std::vector<Value> items() const;
};

class Range : public Object {
 public:
  Range(std::int64_t start, std::int64_t stop, std::int64_t step);
  const std::int64_t start, stop, step;
  const std::int64_t length;
  [[nodiscard]] std::int64_t at(std::int64_t index) const { return start + index * step; }
};

// What is computed as it is read, and but once.
class Iterator : public Object {
 public:
  using Next = std::function<std::optional<Value>()>;
  Iterator(std::string type_name, Next next, int depth)
      : Object(sizeof(Iterator), depth), type(std::move(type_name)), next_(std::move(next)) {}
  std::optional<Value> next();
  const std::string type;

 private:
  Next next_;
  bool ended_ = false;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
  // Takes a named argument out.
  std::optional<Value> take(std::string_view name);
};

// Functions, methods, macros, loops, namespaces.
class Custom : public Object {
 public:
  using Object::Object;
  [[nodiscard]] virtual std::string type() const = 0;  // as jinja2's messages name it
  [[nodiscard]] virtual std::optional<Value> attribute(std::string_view name);
  [[nodiscard]] virtual bool callable() const { return false; }
  virtual Value call(Interpreter& interpreter, Arguments arguments);
  [[nodiscard]] virtual std::string repr();
};

template <class T>
T* Value::custom() const {
  const auto* ref = std::get_if<Ref<Custom>>(&variant_);
  return ref ? dynamic_cast<T*>(ref->get()) : nullptr;
}

template <class F>
Value make_iterator(std::string type, int depth, F next) {
  return std::make_shared<Iterator>(std::move(type), Iterator::Next(std::move(next)), depth);
}

std::string type_name(const Value& value);         // Python's: "str", "NoneType"
std::string object_type_repr(const Value& value);  // jinja2's: "str object", "None"
bool truth(const Value& value);
bool equal(const Value& a, const Value& b);
// \throws Failure where Python does: for what is not ordered, or undefined.
bool less(const Value& a, const Value& b, const char* sign = "<");
std::size_t hash_of(const Value& value);
bool same(const Value& a, const Value& b);  // Python's `is`, but for equal numbers and texts

std::string repr(const Value& value);
std::string str(const Value& value);
std::string repr_text(std::string_view text);
std::string repr_double(double value);

std::int64_t length_of(const Value& value);
// All that iterating gives. \throws Failure when it cannot be iterated.
std::vector<Value> elements(const Value& value);
Value iterate(const Value& value);  // an iterator over it
bool is_iterable(const Value& value);
bool contains(const Value& container, const Value& value);

}  // namespace metal_marlin::jinja
