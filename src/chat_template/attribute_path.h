// The attributes that filters ask of each item: "function.name", 0, or none: the item itself.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "chat_template/value.h"

namespace metal_marlin::jinja {

std::vector<std::string> split_at(std::string_view text, char separator);
// What is ordered and compared: texts in small letters, unless their case matters.
Value case_key(const Value& value, bool case_sensitive);

class AttributePath {
 public:
  // attribute: a text, a number or None; fallback: instead of what is undefined, or Missing.
  explicit AttributePath(const Value& attribute, Value fallback = {});
  [[nodiscard]] Value of(Interpreter& interpreter, const Value& item) const;
  [[nodiscard]] Value key_of(Interpreter& interpreter, const Value& item, bool case_sensitive) const {
    return case_key(of(interpreter, item), case_sensitive);
  }

 private:
  std::vector<Value> parts_;
  Value fallback_;
};

}  // namespace metal_marlin::jinja
