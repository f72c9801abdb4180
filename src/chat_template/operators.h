// Python's operators.
#pragma once

#include "chat_template/ast.h"
#include "chat_template/value.h"

namespace metal_marlin::jinja {

Value binary(Operator op, const Value& left, const Value& right);
bool compare(Operator op, const Value& left, const Value& right);
Value negative(const Value& value);
Value positive(const Value& value);
// value[start:stop:step]; a bound that is not there is None.
Value slice(const Value& value, const Value& start, const Value& stop, const Value& step);
// Item `index` of a text or sequence, from the end where it is negative; nullopt: there is none.
std::optional<Value> element(const Value& value, std::int64_t index);

}  // namespace metal_marlin::jinja
