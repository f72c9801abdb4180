#include "chat_template/objects.h"

#include <algorithm>

#include "chat_template/failure.h"
#include "chat_template/interpreter.h"
#include "chat_template/library.h"

namespace metal_marlin::jinja {

Value Method::call(Interpreter& interpreter, Arguments arguments) {
  return call_method(interpreter, self_, name_, std::move(arguments));
}

std::string Macro::shown_name() const {
  return stmt_->name.empty() ? "None" : repr_text(stmt_->name);
}

std::string Macro::repr() {
  return "<Macro " + (stmt_->name.empty() ? "anonymous" : repr_text(stmt_->name)) + ">";
}

std::optional<Value> Macro::attribute(std::string_view name) {
  if (name == "name") return stmt_->name.empty() ? Value(None{}) : Value(stmt_->name);
  if (name == "catch_kwargs") return Value(stmt_->uses_kwargs);
  if (name == "catch_varargs") return Value(stmt_->uses_varargs);
  if (name == "caller") return Value(stmt_->uses_caller);
  if (name != "arguments") return std::nullopt;
  std::vector<Value> names;
  for (const ExprPtr& parameter : stmt_->parameters) names.emplace_back(parameter->name);
  return Value::tuple(std::move(names));
}

// As jinja2 binds them: the parameters, then caller, kwargs and varargs where the body asks for them.
Value Macro::call(Interpreter& interpreter, Arguments arguments) {
  const auto& parameters = stmt_->parameters;
  const auto is_caller = [](const ExprPtr& parameter) { return parameter->name == "caller"; };
  std::vector<Value> bound;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (i < arguments.positional.size()) {
      bound.push_back(arguments.positional[i]);
    } else {
      bound.push_back(arguments.take(parameters[i]->name).value_or(Value()));
    }
  }
  if (stmt_->uses_caller && std::none_of(parameters.begin(), parameters.end(), is_caller)) {
    const Value caller = arguments.take("caller").value_or(None{});
    bound.push_back(caller.is<None>() ? Value::undefined("No caller defined") : caller);
  }
  if (stmt_->uses_kwargs) {
    Dict::Items named;
    for (auto& [name, value] : arguments.named) named.emplace_back(name, value);
    bound.emplace_back(std::make_shared<const Dict>(std::move(named)));
  } else if (!arguments.named.empty()) {
    if (arguments.take("caller")) {
      python_error("macro {} was invoked with two values for the special caller argument. This is most likely a bug.",
                   shown_name());
    }
    python_error("macro {} takes no keyword argument {}", shown_name(), repr_text(arguments.named.front().first));
  }
  const std::size_t given = arguments.positional.size();
  if (stmt_->uses_varargs) {
    const std::size_t rest = std::min(given, parameters.size());
    bound.push_back(
        Value::tuple({arguments.positional.begin() + static_cast<std::ptrdiff_t>(rest), arguments.positional.end()}));
  } else if (given > parameters.size()) {
    python_error("macro {} takes not more than {} argument(s)", shown_name(), parameters.size());
  }
  return interpreter.call_macro(*stmt_, *outer_, *context_, std::move(bound));
}

Namespace::Namespace(const Dict::Items& attributes)
    : Custom(sizeof(Namespace) + attributes.size() * 2 * sizeof(Value)), attributes_(attributes) {}

std::optional<Value> Namespace::attribute(std::string_view name) {
  for (const auto& [key, value] : attributes_) {
    if (key.is_text() && key.text() == name) return value;
  }
  return std::nullopt;
}

std::string Namespace::repr() {
  if (being_shown_) python_error("maximum recursion depth exceeded");
  being_shown_ = true;
  const std::string shown = jinja::repr(std::make_shared<const Dict>(attributes_));
  being_shown_ = false;
  return "<Namespace " + shown + ">";
}

void Namespace::set(const std::string& name, Value value) {
  for (auto& [key, there] : attributes_) {
    if (!key.is_text() || key.text() != name) continue;
    there = std::move(value);
    return;
  }
  attributes_.emplace_back(name, std::move(value));
}

Loop::Loop(Value iterable, Recurse recurse, int depth0)
    : Custom(sizeof(Loop), iterable.depth()),
      iterable_(std::move(iterable)),
      iterator_(iterate(iterable_)),
      recurse_(std::move(recurse)),
      depth0_(depth0) {}

std::optional<Value> Loop::next() {
  std::optional<Value> item = peek();
  peeked_ = false;
  after_.reset();
  if (!item) return item;
  ++index0_;
  before_ = std::move(current_);
  current_ = item;
  return item;
}

const std::optional<Value>& Loop::peek() {
  if (!peeked_) {
    if (const auto* iterator = iterator_.get<Ref<Iterator>>()) after_ = (*iterator)->next();
    peeked_ = true;
  }
  return after_;
}

void Loop::end() {
  if (!length_ && !iterable_.is<Ref<Iterator>>()) length_ = length_of(iterable_);
  iterable_ = iterator_ = Value();
  after_.reset();
  current_.reset();
  before_.reset();
  last_changed_.reset();
  peeked_ = true;
}

std::int64_t Loop::length() {
  if (length_) return *length_;
  if (!iterable_.is<Ref<Iterator>>()) {
    length_ = length_of(iterable_);
  } else {
    Value rest = Value::list(elements(iterator_));
    length_ = length_of(rest) + index0_ + 1 + static_cast<std::int64_t>(after_.has_value());
    iterator_ = iterate(rest);
  }
  return *length_;
}

std::optional<Value> Loop::attribute(std::string_view name) {
  if (name == "index0") return Value(index0_);
  if (name == "index") return Value(index0_ + 1);
  if (name == "first") return Value(index0_ == 0);
  if (name == "last") return Value(!peek().has_value());
  if (name == "length") return Value(length());
  if (name == "revindex0") return Value(length() - index0_ - 1);
  if (name == "revindex") return Value(length() - index0_);
  if (name == "depth") return Value(std::int64_t{depth0_} + 1);
  if (name == "depth0") return Value(std::int64_t{depth0_});
  if (name == "previtem") {
    return index0_ == 0 || !before_ ? Value::undefined("there is no previous item") : *before_;
  }
  if (name == "nextitem") return peek() ? *peek() : Value::undefined("there is no next item");
  return std::nullopt;
}

std::string Loop::repr() {
  return fmt::format("<LoopContext {}/{}>", index0_ + 1, length());
}

Value Loop::call(Interpreter& /*interpreter*/, Arguments arguments) {
  const Bound bound("loop", "iterable", 1, std::move(arguments));
  if (!recurse_) python_error("The loop must have the 'recursive' marker to be called recursively.");
  return recurse_(bound[0], depth0_ + 1);
}

bool Loop::changed(std::vector<Value> values) {
  if (last_changed_ && equal(Value::tuple(*last_changed_), Value::tuple(values))) return false;
  last_changed_ = std::move(values);
  return true;
}

Value Loop::cycle(const std::vector<Value>& values) const {
  if (values.empty()) python_error("no items for cycling given");
  return values[static_cast<std::size_t>(std::max<std::int64_t>(index0_, 0)) % values.size()];
}

Cycler::Cycler(std::vector<Value> items) : Custom(sizeof(Cycler)), items_(Value::tuple(std::move(items))) {}

std::optional<Value> Cycler::attribute(std::string_view name) {
  const std::vector<Value>& items = items_.object<Sequence>()->items;
  if (name == "current") return items[at_];
  if (name == "items") return items_;
  if (name == "pos") return Value(static_cast<std::int64_t>(at_));
  return std::nullopt;
}

Value Cycler::next() {
  const std::vector<Value>& items = items_.object<Sequence>()->items;
  Value out = items[at_];
  at_ = (at_ + 1) % items.size();
  return out;
}

std::optional<Value> Joiner::attribute(std::string_view name) {
  if (name == "sep") return separator_;
  if (name == "used") return Value(used_);
  return std::nullopt;
}

Value Joiner::call(Interpreter& /*interpreter*/, Arguments arguments) {
  const Bound bound("joiner", "", 0, std::move(arguments));
  return std::exchange(used_, true) ? separator_ : Value("");
}

}  // namespace metal_marlin::jinja
