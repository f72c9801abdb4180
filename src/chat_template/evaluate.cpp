// The expressions of a template.
#include <algorithm>

#include "chat_template/attributes.h"
#include "chat_template/failure.h"
#include "chat_template/interpreter.h"
#include "chat_template/library.h"
#include "chat_template/operators.h"

namespace metal_marlin::jinja {

Value Interpreter::evaluate(const Expr& expr, Scope scope) {
  if (expr.kind == ExprKind::kConst) return expr.constant;
  const Deeper deeper(*this);
  return evaluate_node(expr, scope);
}

Value Interpreter::evaluate_node(const Expr& expr, Scope scope) {
  const auto operand = [&](std::size_t index) { return evaluate(*expr.items[index], scope); };
  switch (expr.kind) {
    case ExprKind::kConst: return expr.constant;
    case ExprKind::kName:
    case ExprKind::kMember: return evaluate_name(expr, scope);
    case ExprKind::kTuple: return Value::tuple(values(expr.items, scope));
    case ExprKind::kList: return Value::list(values(expr.items, scope));
    case ExprKind::kDict: return dict(expr, scope);
    case ExprKind::kConditional: return conditional(expr, scope);
    case ExprKind::kOr:
    case ExprKind::kAnd: {
      Value left = operand(0);
      return truth(left) == (expr.kind == ExprKind::kOr) ? left : operand(1);
    }
    case ExprKind::kNot: return !truth(operand(0));
    case ExprKind::kCompare: return compare(expr, scope);
    case ExprKind::kBinary: {
      const Value left = operand(0);
      return binary(expr.operators.front(), left, operand(1));
    }
    case ExprKind::kConcat: return concat(expr, scope);
    case ExprKind::kNegative: return negative(operand(0));
    case ExprKind::kPositive: return positive(operand(0));
    case ExprKind::kAttribute: return attribute(operand(0), expr.name);
    case ExprKind::kSubscript: return subscript(expr, scope);
    case ExprKind::kSlice: python_error("unhashable type: 'slice'");  // but where it is the whole subscript
    case ExprKind::kCall: {
      const Value callee = operand(0);
      return call(callee, arguments(expr, scope, 1));
    }
    case ExprKind::kFilter: return filter(expr, scope);
    case ExprKind::kTest: {
      if (!has_test(expr.name)) fail(FailureKind::kTemplate, "No test named {} found.", repr_text(expr.name));
      const Value value = operand(0);
      return call_test(*this, expr.name, value, arguments(expr, scope, 1));
    }
  }
  return {};
}

Value Interpreter::evaluate_name(const Expr& expr, Scope scope) {
  const Value& value = variable(scope.activation, expr.place);
  return value.is<Missing>() ? Value::undefined(repr_text(expr.name) + " is undefined") : value;
}

Value Interpreter::conditional(const Expr& expr, Scope scope) {
  if (truth(evaluate(*expr.items[0], scope))) return evaluate(*expr.items[1], scope);
  if (expr.items[2]) return evaluate(*expr.items[2], scope);
  return Value::undefined(
      fmt::format("the inline if-expression on line {} evaluated to false and no else section was "
                  "defined.",
                  expr.line));
}

Value Interpreter::compare(const Expr& expr, Scope scope) {
  Value left = evaluate(*expr.items.front(), scope);
  for (std::size_t i = 0; i < expr.operators.size(); ++i) {
    Value right = evaluate(*expr.items[i + 1], scope);
    if (!jinja::compare(expr.operators[i], left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::concat(const Expr& expr, Scope scope) {
  std::string out;
  for (const ExprPtr& item : expr.items) {
    out += str(evaluate(*item, scope));
    check_size(out.size());
  }
  return out;
}

Value Interpreter::dict(const Expr& expr, Scope scope) {
  Dict::Items items;
  for (std::size_t i = 0; i < expr.items.size(); i += 2) {
    Value key = evaluate(*expr.items[i], scope);
    items.emplace_back(std::move(key), evaluate(*expr.items[i + 1], scope));
  }
  return std::make_shared<const Dict>(std::move(items));
}

Value Interpreter::subscript(const Expr& expr, Scope scope) {
  const Value value = evaluate(*expr.items[0], scope);
  const Expr& index = *expr.items[1];
  if (index.kind != ExprKind::kSlice) return item(value, evaluate(index, scope));
  const auto bound = [&](std::size_t i) { return index.items[i] ? evaluate(*index.items[i], scope) : Value(None{}); };
  const Value start = bound(0);
  const Value stop = bound(1);
  return slice(value, start, stop, bound(2));
}

// block: what a filter of a block is applied to.
Value Interpreter::filter(const Expr& expr, Scope scope, const Value* block) {
  const Expr* const filtered = expr.items.front().get();
  Value value;
  if (filtered == nullptr) {
    value = *block;
  } else if (filtered->kind == ExprKind::kFilter) {
    const Deeper deeper(*this);
    value = filter(*filtered, scope, block);
  } else {
    value = evaluate(*filtered, scope);
  }
  if (!has_filter(expr.name)) fail(FailureKind::kTemplate, "No filter named {} found.", repr_text(expr.name));
  return call_filter(*this, expr.name, value, arguments(expr, scope, 1));
}

std::vector<Value> Interpreter::values(const std::vector<ExprPtr>& exprs, Scope scope, std::size_t first) {
  std::vector<Value> out;
  out.reserve(exprs.size() - first);
  for (std::size_t i = first; i < exprs.size(); ++i) out.push_back(evaluate(*exprs[i], scope));
  return out;
}

Arguments Interpreter::arguments(const Expr& expr, Scope scope, std::size_t first) {
  Arguments out{values(expr.items, scope, first), {}};
  if (expr.more) {
    const Value more = evaluate(*expr.more, scope);
    if (!is_iterable(more)) {
      python_error("argument after * must be an iterable, not {}", type_name(more));
    }
    for (Value& value : elements(more)) out.positional.push_back(std::move(value));
  }
  for (const auto& [name, value] : expr.named) out.named.emplace_back(name, evaluate(*value, scope));
  if (!expr.more_named) return out;
  const Value more = evaluate(*expr.more_named, scope);
  const auto* const named = more.object<Dict>();
  if (named == nullptr) python_error("argument after ** must be a mapping, not {}", type_name(more));
  for (const auto& [key, value] : named->items()) {
    if (!key.is_text()) python_error("keywords must be strings");
    const auto same_name = [&, &name = key](const auto& there) { return there.first == name.text(); };
    if (std::any_of(out.named.begin(), out.named.end(), same_name)) {
      python_error("got multiple values for keyword argument '{}'", key.text());
    }
    out.named.emplace_back(key.text(), value);
  }
  return out;
}

Value Interpreter::call(const Value& callee, Arguments arguments) {
  if (const auto* undefined = callee.object<Undefined>()) undefined->fail();
  const auto* const custom = callee.get<Ref<Custom>>();
  if (custom == nullptr) python_error("'{}' object is not callable", type_name(callee));
  const Deeper deeper(*this);
  return (*custom)->call(*this, std::move(arguments));
}

static Value no_such(const Value& value, const Value& name) {
  const std::string type = object_type_repr(value);
  if (name.is_text()) return Value::undefined(fmt::format("{} has no attribute {}", repr_text(type), repr(name)));
  return Value::undefined(fmt::format("{} has no element {}", type, repr(name)));
}

static Value safe_attribute(const Value& value, const std::string& name, const Value& found) {
  if (!name.starts_with('_') && !modifies(value, name)) return found;
  return Value::undefined(
      fmt::format("access to attribute {} of {} object is unsafe.", repr_text(name), repr_text(type_name(value))),
      true);
}

Value Interpreter::attribute(const Value& value, const std::string& name) {
  if (const auto* undefined = value.object<Undefined>()) undefined->fail();
  if (const auto found = native_attribute(value, name)) return safe_attribute(value, name, *found);
  const auto* const dict = value.object<Dict>();
  const Value* const item = dict ? dict->find(std::string_view(name)) : nullptr;
  return item ? *item : no_such(value, name);
}

Value Interpreter::item(const Value& value, const Value& key) {
  if (const auto* undefined = value.object<Undefined>()) undefined->fail();
  if (const auto* dict = value.object<Dict>()) {
    if (const Value* const found = is_hashable(key) ? dict->find(key) : nullptr) return *found;
  } else if (key.is_integer() && (value.is_text() || value.is<Ref<const Sequence>>() || value.is<Ref<const Range>>())) {
    if (auto found = element(value, key.integer())) return *std::move(found);
  }
  if (key.is_text()) {
    if (const auto found = native_attribute(value, key.text())) return safe_attribute(value, key.text(), *found);
  }
  return no_such(value, key);
}

}  // namespace metal_marlin::jinja
