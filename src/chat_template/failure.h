// What goes wrong in a template, before it becomes an Error that says where.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace metal_marlin::jinja {

enum class FailureKind {
  kSyntax,       // TemplateSyntaxError
  kTemplate,     // TemplateError: raise_exception, filters that are not there
  kUndefined,    // UndefinedError
  kSecurity,     // SecurityError
  kPython,       // what Python's own functions raise: TypeError, ValueError
  kUnsupported,  // what is valid, and not done here: limits, big integers
};

class Failure : public std::runtime_error {
 public:
  Failure(FailureKind kind, const std::string& message, int line = 0)
      : std::runtime_error(message), kind_(kind), line_(line) {}
  [[nodiscard]] FailureKind kind() const { return kind_; }
  [[nodiscard]] int line() const { return line_; }
  // The innermost line that is known is the one that counts.
  void set_line(int line) {
    if (line_ == 0) line_ = line;
  }

 private:
  FailureKind kind_;
  int line_;
};

template <class... Arguments>
[[noreturn]] void fail(FailureKind kind, fmt::format_string<Arguments...> text, Arguments&&... arguments) {
  throw Failure(kind, fmt::format(text, std::forward<Arguments>(arguments)...));
}
template <class... Arguments>
[[noreturn]] void python_error(fmt::format_string<Arguments...> text, Arguments&&... arguments) {
  throw Failure(FailureKind::kPython, fmt::format(text, std::forward<Arguments>(arguments)...));
}

}  // namespace metal_marlin::jinja
