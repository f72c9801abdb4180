// Runs a template's tree.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "chat_template/ast.h"
#include "chat_template/objects.h"
#include "chat_template/value.h"

namespace metal_marlin::jinja {

// A call of a function of the template: its variables.
struct Activation {
  Activation(Activation* outer, int slots) : parent(outer), variables(static_cast<std::size_t>(slots)) {}
  Activation* parent;
  std::vector<Value> variables;
  bool captured = false;  // a macro made in it may outlive the call
};

// The variables that names without an assignment are looked up in.
class Context {
 public:
  explicit Context(const Context* parent) : parent_(parent) {}
  [[nodiscard]] const Value* find(const std::string& name) const;
  void set(const std::string& name, Value value) { variables_[name] = std::move(value); }

 private:
  const Context* parent_;
  std::map<std::string, Value> variables_;
};

class Interpreter {
 public:
  // variables: a template's, over its functions; now: what strftime_now shows.
  Interpreter(const Tree& tree, std::vector<std::pair<std::string, Value>> variables, std::chrono::local_seconds now);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  // \throws Failure with the line.
  std::string run();

  Value call(const Value& callee, Arguments arguments);
  Value call_macro(const Stmt& stmt, Activation& outer, Context& context, std::vector<Value> arguments);
  // environment.getattr and getitem: attributes and items stand for each other.
  Value attribute(const Value& value, const std::string& name);
  Value item(const Value& value, const Value& key);
  [[nodiscard]] std::chrono::local_seconds now() const { return now_; }
  Value make_namespace(const Dict::Items& attributes);

  // Counts how deep calls are nested.
  class Deeper {
   public:
    explicit Deeper(Interpreter& interpreter);
    ~Deeper() { --interpreter_.depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;

   private:
    Interpreter& interpreter_;
  };

 private:
  enum class Flow { kNext, kBreak, kContinue };
  struct Scope {  // where a statement runs
    Activation& activation;
    Context& context;
  };

  Flow execute(const Body& body, Scope scope);
  Flow execute(const Stmt& stmt, Scope scope);
  void print(const Stmt& stmt, Scope scope);
  void write(std::string_view text);
  // What statements print, as a text.
  template <class F>
  std::string capture(F&& print);
  void assign(const Stmt& stmt, Scope scope);
  Flow assign_block(const Stmt& stmt, Scope scope);
  void run_with(const Stmt& stmt, Scope scope, Flow& flow);
  Flow run_if(const Stmt& stmt, Scope scope);
  Flow run_for(const Stmt& stmt, Scope scope);
  Value run_recursive(const Stmt& stmt, const Value& iterable, Scope scope, int depth);
  Flow run_loop(const Stmt& stmt, Value iterable, Scope scope, Scope outer, int depth);
  Value filtered(const Stmt& stmt, const Value& iterable, Scope scope);
  void call_block(const Stmt& stmt, Scope scope);
  void run_block(const Stmt& stmt, Scope scope);
  Value make_macro(const Stmt& stmt, Scope scope);

  static void enter(const std::vector<Load>& loads, Scope scope);
  static void leave(const std::vector<Load>& loads, Activation& activation);
  static Value& variable(Activation& activation, Place place);
  void store(const Expr& target, const Value& value, Scope scope);
  void export_names(const Expr& target, Scope scope);

  Value evaluate(const Expr& expr, Scope scope);
  Value evaluate_node(const Expr& expr, Scope scope);
  Value evaluate_name(const Expr& expr, Scope scope);
  Value conditional(const Expr& expr, Scope scope);
  Value compare(const Expr& expr, Scope scope);
  Value concat(const Expr& expr, Scope scope);
  Value dict(const Expr& expr, Scope scope);
  Value subscript(const Expr& expr, Scope scope);
  Value filter(const Expr& expr, Scope scope, const Value* block = nullptr);
  Arguments arguments(const Expr& expr, Scope scope, std::size_t first);
  std::vector<Value> values(const std::vector<ExprPtr>& exprs, Scope scope, std::size_t first = 0);

  const Tree& tree_;
  std::chrono::local_seconds now_;
  Context globals_;
  Context context_;
  std::string* out_ = nullptr;
  int depth_ = 0;
  std::vector<std::unique_ptr<Activation>> kept_;  // which macros may still ask for
  std::vector<std::unique_ptr<Context>> kept_contexts_;
  std::vector<Ref<Namespace>> namespaces_;  // which may hold each other
};

}  // namespace metal_marlin::jinja
