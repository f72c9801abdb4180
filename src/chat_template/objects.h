// Values that templates call or that have attributes: functions, methods, macros, loops, namespaces.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "chat_template/ast.h"
#include "chat_template/value.h"

namespace metal_marlin::jinja {

struct Activation;
class Context;

class NativeFunction : public Custom {
 public:
  using Call = Value (*)(Interpreter&, Arguments);
  NativeFunction(std::string name, Call function, bool is_type = false)
      : Custom(sizeof(NativeFunction)), name_(std::move(name)), call_(function), is_type_(is_type) {}
  [[nodiscard]] std::string type() const override { return is_type_ ? "type" : "function"; }
  [[nodiscard]] bool callable() const override { return true; }
  Value call(Interpreter& interpreter, Arguments arguments) override {
    return call_(interpreter, std::move(arguments));
  }

 private:
  std::string name_;
  Call call_;
  bool is_type_;
};

class Method : public Custom {
 public:
  Method(Value self, std::string name)
      : Custom(sizeof(Method), self.depth()), self_(std::move(self)), name_(std::move(name)) {}
  [[nodiscard]] std::string type() const override { return "builtin_function_or_method"; }
  [[nodiscard]] bool callable() const override { return true; }
  Value call(Interpreter& interpreter, Arguments arguments) override;

 private:
  Value self_;
  std::string name_;
};

class Macro : public Custom {
 public:
  Macro(const Stmt& stmt, Activation& outer, Context& context)
      : Custom(sizeof(Macro)), stmt_(&stmt), outer_(&outer), context_(&context) {}
  [[nodiscard]] std::string type() const override { return "jinja2.runtime.Macro"; }
  [[nodiscard]] bool callable() const override { return true; }
  [[nodiscard]] std::optional<Value> attribute(std::string_view name) override;
  [[nodiscard]] std::string repr() override;
  Value call(Interpreter& interpreter, Arguments arguments) override;

 private:
  [[nodiscard]] std::string shown_name() const;
  const Stmt* stmt_;
  Activation* outer_;
  Context* context_;
};

class Namespace : public Custom {
 public:
  explicit Namespace(const Dict::Items& attributes);
  [[nodiscard]] std::string type() const override { return "jinja2.utils.Namespace"; }
  [[nodiscard]] std::optional<Value> attribute(std::string_view name) override;
  [[nodiscard]] std::string repr() override;
  void set(const std::string& name, Value value);
  void clear() { attributes_.clear(); }

 private:
  std::vector<std::pair<Value, Value>> attributes_;
  bool being_shown_ = false;
};

class Loop : public Custom {
 public:
  // recurse: calls the loop for what lies in it, or is null.
  using Recurse = std::function<Value(const Value& iterable, int depth)>;
  Loop(Value iterable, Recurse recurse, int depth0);
  [[nodiscard]] std::string type() const override { return "jinja2.runtime.LoopContext"; }
  [[nodiscard]] bool callable() const override { return true; }
  [[nodiscard]] std::optional<Value> attribute(std::string_view name) override;
  [[nodiscard]] std::string repr() override;
  Value call(Interpreter& interpreter, Arguments arguments) override;
  // The next item.
  std::optional<Value> next();
  // Lets go of the items; the numbers stay.
  void end();
  bool changed(std::vector<Value> values);
  [[nodiscard]] Value cycle(const std::vector<Value>& values) const;

 private:
  std::int64_t length();
  const std::optional<Value>& peek();

  Value iterable_;
  Value iterator_;
  Recurse recurse_;
  int depth0_;
  std::int64_t index0_ = -1;
  std::optional<std::int64_t> length_;
  std::optional<Value> after_, current_, before_;
  bool peeked_ = false;
  std::optional<std::vector<Value>> last_changed_;
};

class Cycler : public Custom {
 public:
  explicit Cycler(std::vector<Value> items);
  [[nodiscard]] std::string type() const override { return "jinja2.utils.Cycler"; }
  [[nodiscard]] std::optional<Value> attribute(std::string_view name) override;
  Value next();
  void reset() { at_ = 0; }

 private:
  Value items_;
  std::size_t at_ = 0;
};

class Joiner : public Custom {
 public:
  explicit Joiner(Value separator) : Custom(sizeof(Joiner), separator.depth()), separator_(std::move(separator)) {}
  [[nodiscard]] std::string type() const override { return "jinja2.utils.Joiner"; }
  [[nodiscard]] bool callable() const override { return true; }
  [[nodiscard]] std::optional<Value> attribute(std::string_view name) override;
  Value call(Interpreter& interpreter, Arguments arguments) override;

 private:
  Value separator_;
  bool used_ = false;
};

}  // namespace metal_marlin::jinja
