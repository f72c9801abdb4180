// The attributes that Python's own types have.
#pragma once

#include <optional>
#include <string>

#include "chat_template/value.h"

namespace metal_marlin::jinja {

std::optional<Value> native_attribute(const Value& value, const std::string& name);
// Whether a method changes a list or dict, which the sandbox refuses.
bool modifies(const Value& value, const std::string& name);
bool is_hashable(const Value& value);

}  // namespace metal_marlin::jinja
