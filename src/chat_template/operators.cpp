#include "chat_template/operators.h"

#include <algorithm>
#include <cmath>

#include "base/unicode.h"
#include "chat_template/characters.h"
#include "chat_template/failure.h"
#include "chat_template/library.h"

namespace metal_marlin::jinja {
namespace {

const char* sign(Operator op) {
  static constexpr const char* kSigns[] = {
      "+", "-", "*", "/", "//", "%", "** or pow()", "==", "!=", "<", "<=", ">", ">=", "in", "not in"};
  return kSigns[static_cast<std::size_t>(op)];
}

[[noreturn]] void wrong_operands(Operator op, const Value& left, const Value& right) {
  python_error("unsupported operand type(s) for {}: '{}' and '{}'", sign(op), type_name(left), type_name(right));
}

[[noreturn]] void overflow() {
  fail(FailureKind::kUnsupported, "an integer beyond 64 bits");
}

std::int64_t floor_div(std::int64_t a, std::int64_t b) {
  if (b == 0) python_error("integer division or modulo by zero");
  if (b == -1) {
    std::int64_t out = 0;
    if (__builtin_sub_overflow(std::int64_t{0}, a, &out)) overflow();
    return out;
  }
  return a / b - static_cast<std::int64_t>(a % b != 0 && (a < 0) != (b < 0));
}

std::int64_t floor_mod(std::int64_t a, std::int64_t b) {
  if (b == 0) python_error("integer modulo by zero");
  if (b == -1) return 0;
  const std::int64_t rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

Value power(std::int64_t base, std::int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) python_error("0.0 cannot be raised to a negative power");
    return std::pow(static_cast<double>(base), static_cast<double>(exponent));
  }
  std::int64_t out = 1;
  if (base == 0 || base == 1) return exponent == 0 ? std::int64_t{1} : base;
  if (base == -1) return exponent % 2 == 0 ? std::int64_t{1} : std::int64_t{-1};
  for (; exponent > 0; --exponent) {
    if (__builtin_mul_overflow(out, base, &out)) overflow();
  }
  return out;
}

Value integers(Operator op, std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  switch (op) {
    case Operator::kAdd:
      if (__builtin_add_overflow(a, b, &out)) overflow();
      return out;
    case Operator::kSub:
      if (__builtin_sub_overflow(a, b, &out)) overflow();
      return out;
    case Operator::kMul:
      if (__builtin_mul_overflow(a, b, &out)) overflow();
      return out;
    case Operator::kDiv:
      if (b == 0) python_error("division by zero");
      return static_cast<double>(static_cast<long double>(a) / static_cast<long double>(b));
    case Operator::kFloorDiv: return floor_div(a, b);
    case Operator::kMod: return floor_mod(a, b);
    default: return power(a, b);
  }
}

// Python's a % b, and the quotient that goes with it.
double float_mod(double a, double b, double& quotient) {
  if (b == 0) python_error("float floor division by zero");
  double rest = std::fmod(a, b);
  quotient = (a - rest) / b;
  if (rest != 0) {
    if ((b < 0) != (rest < 0)) {
      rest += b;
      quotient -= 1;
    }
  } else {
    rest = std::copysign(0.0, b);
  }
  if (quotient != 0) {
    const double floored = std::floor(quotient);
    quotient = quotient - floored > 0.5 ? floored + 1 : floored;
  } else {
    quotient = std::copysign(0.0, a / b);
  }
  return rest;
}

Value float_power(double a, double b) {
  if (a == 0 && b < 0) python_error("0.0 cannot be raised to a negative power");
  if (a < 0 && std::isfinite(a) && std::isfinite(b) && b != std::floor(b)) {
    fail(FailureKind::kUnsupported, "complex numbers");
  }
  const double out = std::pow(a, b);
  if (std::isinf(out) && std::isfinite(a) && std::isfinite(b)) python_error("(34, 'Numerical result out of range')");
  return out;
}

Value floats(Operator op, double a, double b) {
  double quotient = 0;
  switch (op) {
    case Operator::kAdd: return a + b;
    case Operator::kSub: return a - b;
    case Operator::kMul: return a * b;
    case Operator::kDiv:
      if (b == 0) python_error("float division by zero");
      return a / b;
    case Operator::kFloorDiv: float_mod(a, b, quotient); return quotient;
    case Operator::kMod: return float_mod(a, b, quotient);
    default: return float_power(a, b);
  }
}

// Text marked as HTML, with what is added to it escaped.
std::string escaped(const Value& value) {
  return value.is_safe() ? value.text() : html_escape(str(value));
}

Value add_texts(const Value& left, const Value& right) {
  check_size(left.text().size() + right.text().size());
  if (left.is_safe() || right.is_safe()) return Value::safe_text(escaped(left) + escaped(right));
  return left.text() + right.text();
}

Value add_sequences(const Sequence& left, const Sequence& right) {
  check_size((left.items.size() + right.items.size()) * sizeof(Value));
  std::vector<Value> items = left.items;
  items.insert(items.end(), right.items.begin(), right.items.end());
  return left.tuple ? Value::tuple(std::move(items)) : Value::list(std::move(items));
}

Value repeat(const Value& value, std::int64_t times) {
  const auto count = static_cast<std::size_t>(std::max<std::int64_t>(times, 0));
  const auto refuse = [&](std::size_t size) {
    check_size(size != 0 && count > kMaxMemory / size ? kMaxMemory + 1 : count * size);
  };
  if (const auto* text = value.object<Text>()) {
    refuse(text->bytes.size());
    std::string out;
    out.reserve(count * text->bytes.size());
    for (std::size_t i = 0; !text->bytes.empty() && i < count; ++i) out += text->bytes;
    return text->safe ? Value::safe_text(std::move(out)) : Value(std::move(out));
  }
  const auto* const items = value.object<Sequence>();
  refuse(items->items.size() * sizeof(Value));
  std::vector<Value> out;
  for (std::size_t i = 0; !items->items.empty() && i < count; ++i) {
    out.insert(out.end(), items->items.begin(), items->items.end());
  }
  return items->tuple ? Value::tuple(std::move(out)) : Value::list(std::move(out));
}

bool can_repeat(const Value& value) {
  return value.is_text() || value.is<Ref<const Sequence>>();
}

// Where a slice begins and ends, and how many items it has.
struct SlicePlan {
  std::int64_t start, stop, count, step;
};

std::int64_t slice_bound(const Value& value, std::int64_t length, std::int64_t low, std::int64_t high,
                         std::int64_t fallback) {
  if (value.is<None>()) return fallback;
  if (!value.is_integer()) python_error("slice indices must be integers or None or have an __index__ method");
  std::int64_t index = value.integer();
  if (index < 0) index = std::max(index, -length - 1) + length;
  return std::clamp(index, low, high);
}

SlicePlan plan_slice(std::int64_t length, const Value& start, const Value& stop, const Value& step) {
  const std::int64_t by = step.is<None>() ? 1 : as_integer(step);
  if (by == 0) python_error("slice step cannot be zero");
  const bool down = by < 0;
  const std::int64_t low = down ? -1 : 0;
  const std::int64_t high = down ? length - 1 : length;
  const std::int64_t from = slice_bound(start, length, low, high, down ? high : low);
  const std::int64_t to = slice_bound(stop, length, low, high, down ? low : high);
  const std::int64_t span = down ? from - to : to - from;
  const std::int64_t stride = down ? -std::max(by, -length - 1) : std::min(by, length + 1);
  return {from, to, span <= 0 ? 0 : (span + stride - 1) / stride, down ? -stride : stride};
}

Value slice_text(const Text& text, const SlicePlan& plan) {
  std::string out;
  if (plan.count > 0 && plan.step == 1) {
    const std::string_view bytes = text.bytes;
    const auto start = static_cast<std::size_t>(plan.start);
    const std::size_t begin = text.ascii() ? start : place_of(bytes, start);
    const auto count = static_cast<std::size_t>(plan.count);
    out = bytes.substr(begin, text.ascii() ? count : place_of(bytes.substr(begin), count));
  } else if (plan.count > 0) {
    const std::vector<std::size_t> places = character_places(text.bytes);
    for (std::int64_t i = 0, at = plan.start; i < plan.count; ++i, at += plan.step) {
      const auto place = static_cast<std::size_t>(at);
      out.append(text.bytes, places[place], places[place + 1] - places[place]);
    }
  }
  return text.safe ? Value::safe_text(std::move(out)) : Value(std::move(out));
}

}  // namespace

Value binary(Operator op, const Value& left, const Value& right) {
  if (left.is_number() && right.is_number()) {
    if (left.is_integer() && right.is_integer()) return integers(op, left.integer(), right.integer());
    return floats(op, left.number(), right.number());
  }
  if (op == Operator::kMod && left.is_text()) return percent_format(left, right);
  if (const auto* undefined = left.object<Undefined>()) undefined->fail();
  if (const auto* undefined = right.object<Undefined>()) undefined->fail();
  if (op == Operator::kAdd) {
    if (left.is_text() && right.is_text()) return add_texts(left, right);
    const auto* const a = left.object<Sequence>();
    const auto* const b = right.object<Sequence>();
    if (a != nullptr && b != nullptr && a->tuple == b->tuple) return add_sequences(*a, *b);
    if (a != nullptr || left.is_text()) {
      python_error("can only concatenate {0} (not \"{1}\") to {0}", type_name(left), type_name(right));
    }
  }
  if (op == Operator::kMul) {
    if (can_repeat(left) && right.is_integer()) return repeat(left, right.integer());
    if (can_repeat(right) && left.is_integer()) return repeat(right, left.integer());
  }
  wrong_operands(op, left, right);
}

bool compare(Operator op, const Value& left, const Value& right) {
  const auto ordered = [&](const Value& a, const Value& b) { return less(a, b, sign(op)); };
  const auto is_nan = [](const Value& value) { return value.is<double>() && std::isnan(value.number()); };
  switch (op) {
    case Operator::kEq: return equal(left, right);
    case Operator::kNe: return !equal(left, right);
    case Operator::kIn: return contains(right, left);
    case Operator::kNotIn: return !contains(right, left);
    case Operator::kLt: return ordered(left, right);
    case Operator::kGt: return ordered(right, left);
    default: break;
  }
  if (is_nan(left) || is_nan(right)) return false;
  return op == Operator::kLe ? !ordered(right, left) : !ordered(left, right);
}

Value negative(const Value& value) {
  if (value.is<double>()) return -value.number();
  if (value.is_integer()) return integers(Operator::kSub, 0, value.integer());
  if (const auto* undefined = value.object<Undefined>()) undefined->fail();
  python_error("bad operand type for unary -: '{}'", type_name(value));
}

Value positive(const Value& value) {
  if (value.is<double>()) return value;
  if (value.is_integer()) return value.integer();
  if (const auto* undefined = value.object<Undefined>()) undefined->fail();
  python_error("bad operand type for unary +: '{}'", type_name(value));
}

Value slice(const Value& value, const Value& start, const Value& stop, const Value& step) {
  if (const auto* undefined = value.object<Undefined>()) undefined->fail();
  if (value.is<Ref<const Dict>>()) python_error("unhashable type: 'slice'");
  if (!value.is_text() && !value.is<Ref<const Sequence>>() && !value.is<Ref<const Range>>()) {
    python_error("'{}' object is not subscriptable", type_name(value));
  }
  const SlicePlan plan = plan_slice(length_of(value), start, stop, step);
  if (const auto* text = value.object<Text>()) return slice_text(*text, plan);
  if (const auto* range = value.object<Range>()) {
    const std::int64_t first = range->at(plan.start);
    return std::make_shared<const Range>(first, range->at(plan.stop), range->step * plan.step);
  }
  const auto* const items = value.object<Sequence>();
  std::vector<Value> out;
  for (std::int64_t i = 0, at = plan.start; i < plan.count; ++i, at += plan.step) {
    out.push_back(items->items[static_cast<std::size_t>(at)]);
  }
  return items->tuple ? Value::tuple(std::move(out)) : Value::list(std::move(out));
}

std::optional<Value> element(const Value& value, std::int64_t index) {
  const std::int64_t length = length_of(value);
  if (index < 0) index += length;
  if (index < 0 || index >= length) return std::nullopt;
  if (const auto* range = value.object<Range>()) return Value(range->at(index));
  if (const auto* items = value.object<Sequence>()) return items->items[static_cast<std::size_t>(index)];
  const auto* const text = value.object<Text>();
  return slice_text(*text, {index, index + 1, 1, 1});
}

}  // namespace metal_marlin::jinja
