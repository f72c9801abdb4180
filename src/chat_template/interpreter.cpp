#include "chat_template/interpreter.h"

#include <algorithm>
#include <utility>

#include "chat_template/failure.h"
#include "chat_template/library.h"

namespace metal_marlin::jinja {

const Value* Context::find(const std::string& name) const {
  for (const Context* at = this; at != nullptr; at = at->parent_) {
    if (const auto found = at->variables_.find(name); found != at->variables_.end()) return &found->second;
  }
  return nullptr;
}

Interpreter::Deeper::Deeper(Interpreter& interpreter) : interpreter_(interpreter) {
  if (++interpreter_.depth_ > 2 * kMaxDepth) {
    --interpreter_.depth_;
    python_error("maximum recursion depth exceeded: calls and blocks nested more than {} deep", 2 * kMaxDepth);
  }
  Budget::current()->step();
}

Interpreter::Interpreter(const Tree& tree, std::vector<std::pair<std::string, Value>> variables,
                         std::chrono::local_seconds now)
    : tree_(tree), now_(now), globals_(nullptr), context_(&globals_) {
  for (auto& [name, value] : global_functions()) globals_.set(name, std::move(value));
  for (auto& variable : variables) globals_.set(variable.first, std::move(variable.second));
}

Interpreter::~Interpreter() {
  for (const auto& space : namespaces_) space->clear();
}

std::string Interpreter::run() {
  Activation root(nullptr, tree_.root.slots);
  const Scope scope{root, context_};
  return capture([&] {
    enter(tree_.root.loads, scope);
    execute(tree_.body, scope);
  });
}

Value Interpreter::make_namespace(const Dict::Items& attributes) {
  auto space = std::make_shared<Namespace>(attributes);
  namespaces_.push_back(space);
  return Ref<Custom>(std::move(space));
}

template <class F>
std::string Interpreter::capture(F&& print) {
  std::string text;
  std::string* const before = std::exchange(out_, &text);
  struct Restore {
    std::string*& out;
    std::string* before;
    ~Restore() { out = before; }
  } const restore{out_, before};
  print();
  return text;
}

void Interpreter::write(std::string_view text) {
  if (text.size() > kMaxOutput - out_->size()) {
    fail(FailureKind::kUnsupported, "more than {} MiB of output", kMaxOutput >> 20);
  }
  out_->append(text);
}

Value& Interpreter::variable(Activation& activation, Place place) {
  Activation* at = &activation;
  for (int i = 0; i < place.hops; ++i) at = at->parent;
  return at->variables[static_cast<std::size_t>(place.slot)];
}

void Interpreter::enter(const std::vector<Load>& loads, Scope scope) {
  for (const Load& load : loads) {
    Value value;
    if (load.from == Load::From::kVariable) {
      value = variable(scope.activation, load.variable);
    } else if (load.from == Load::From::kContext) {
      if (const Value* const found = scope.context.find(load.name)) value = *found;
    }
    scope.activation.variables[static_cast<std::size_t>(load.slot)] = std::move(value);
  }
}

void Interpreter::leave(const std::vector<Load>& loads, Activation& activation) {
  for (const Load& load : loads) activation.variables[static_cast<std::size_t>(load.slot)] = Value();
}

Interpreter::Flow Interpreter::execute(const Body& body, Scope scope) {
  const Deeper deeper(*this);
  for (const auto& stmt : body) {
    const Flow flow = execute(*stmt, scope);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute(const Stmt& stmt, Scope scope) try {
  Flow flow = Flow::kNext;
  switch (stmt.kind) {
    case StmtKind::kOutput: print(stmt, scope); break;
    case StmtKind::kAssign: assign(stmt, scope); break;
    case StmtKind::kAssignBlock: flow = assign_block(stmt, scope); break;
    case StmtKind::kFor: flow = run_for(stmt, scope); break;
    case StmtKind::kIf: flow = run_if(stmt, scope); break;
    case StmtKind::kWith: run_with(stmt, scope, flow); break;
    case StmtKind::kMacro:
      variable(scope.activation, stmt.place) = make_macro(stmt, scope);
      if (stmt.exported) scope.context.set(stmt.name, variable(scope.activation, stmt.place));
      break;
    case StmtKind::kCallBlock: call_block(stmt, scope); break;
    case StmtKind::kFilterBlock: {
      enter(stmt.loads, scope);
      const Value text = capture([&] { flow = execute(stmt.body, scope); });
      if (flow == Flow::kNext) write(str(filter(*stmt.expr, scope, &text)));
      leave(stmt.loads, scope.activation);
      break;
    }
    case StmtKind::kScope:
      enter(stmt.loads, scope);
      flow = execute(stmt.body, scope);
      leave(stmt.loads, scope.activation);
      break;
    case StmtKind::kBlock: run_block(stmt, scope); break;
    case StmtKind::kBreak: return Flow::kBreak;
    case StmtKind::kContinue: return Flow::kContinue;
    case StmtKind::kRefused: throw Failure(FailureKind::kTemplate, stmt.name);
  }
  return flow;
} catch (Failure& failure) {
  failure.set_line(stmt.line);
  throw;
}

void Interpreter::print(const Stmt& stmt, Scope scope) {
  for (const ExprPtr& expr : stmt.exprs) {
    try {
      const Value value = evaluate(*expr, scope);
      write(value.is_text() ? std::string_view(value.text()) : std::string_view(str(value)));
    } catch (Failure& failure) {
      failure.set_line(expr->line);
      throw;
    }
  }
}

void Interpreter::store(const Expr& target, const Value& value, Scope scope) {
  if (target.kind == ExprKind::kName) {
    variable(scope.activation, target.place) = value;
    return;
  }
  if (target.kind == ExprKind::kMember) {
    auto* const space = variable(scope.activation, target.place).custom<Namespace>();
    if (space == nullptr) fail(FailureKind::kTemplate, "cannot assign attribute on non-namespace object");
    space->set(target.member, value);
    return;
  }
  if (!is_iterable(value)) python_error("cannot unpack non-iterable {} object", type_name(value));
  const std::vector<Value> items = elements(value);
  if (items.size() > target.items.size()) {
    python_error("too many values to unpack (expected {})", target.items.size());
  }
  if (items.size() < target.items.size()) {
    python_error("not enough values to unpack (expected {}, got {})", target.items.size(), items.size());
  }
  for (std::size_t i = 0; i < items.size(); ++i) store(*target.items[i], items[i], scope);
}

// What the top level assigns to is seen by blocks, too.
void Interpreter::export_names(const Expr& target, Scope scope) {
  if (target.kind == ExprKind::kName) scope.context.set(target.name, variable(scope.activation, target.place));
  for (const ExprPtr& item : target.items) export_names(*item, scope);
}

void Interpreter::assign(const Stmt& stmt, Scope scope) {
  store(*stmt.target, evaluate(*stmt.expr, scope), scope);
  if (stmt.exported) export_names(*stmt.target, scope);
}

Interpreter::Flow Interpreter::assign_block(const Stmt& stmt, Scope scope) {
  enter(stmt.loads, scope);
  Flow flow = Flow::kNext;
  Value value = capture([&] { flow = execute(stmt.body, scope); });
  if (flow == Flow::kNext) {
    if (stmt.expr) value = filter(*stmt.expr, scope, &value);
    store(*stmt.target, value, scope);
    if (stmt.exported) export_names(*stmt.target, scope);
  }
  leave(stmt.loads, scope.activation);
  return flow;
}

void Interpreter::run_with(const Stmt& stmt, Scope scope, Flow& flow) {
  enter(stmt.loads, scope);
  for (std::size_t i = 0; i < stmt.parameters.size(); ++i) {
    store(*stmt.parameters[i], evaluate(*stmt.exprs[i], scope), scope);
  }
  flow = execute(stmt.body, scope);
  leave(stmt.loads, scope.activation);
}

Interpreter::Flow Interpreter::run_if(const Stmt& stmt, Scope scope) {
  if (truth(evaluate(*stmt.expr, scope))) return execute(stmt.body, scope);
  for (const auto& elif : stmt.elifs) {
    if (truth(evaluate(*elif->expr, scope))) return execute(elif->body, scope);
  }
  return execute(stmt.otherwise, scope);
}

Interpreter::Flow Interpreter::run_for(const Stmt& stmt, Scope scope) {
  const Value iterable = evaluate(*stmt.expr, scope);
  if (!stmt.recursive) return run_loop(stmt, iterable, scope, scope, 0);
  write(str(run_recursive(stmt, iterable, scope, 0)));
  return Flow::kNext;
}

Value Interpreter::run_recursive(const Stmt& stmt, const Value& iterable, Scope scope, int depth) {
  for (Activation* at = &scope.activation; at != nullptr; at = at->parent) at->captured = true;
  auto own = std::make_unique<Activation>(&scope.activation, stmt.function.slots);
  const std::string text = capture([&] { run_loop(stmt, iterable, {*own, scope.context}, scope, depth); });
  if (own->captured) kept_.push_back(std::move(own));
  return text;
}

// The items that pass a loop's test, which is asked as the loop gets there.
Value Interpreter::filtered(const Stmt& stmt, const Value& iterable, Scope scope) {
  const Value source = iterate(iterable);
  auto activation = std::make_shared<Activation>(&scope.activation, stmt.test_function.slots);
  Context* const context = &scope.context;
  enter(stmt.test_function.loads, {*activation, *context});
  return make_iterator("generator", iterable.depth(),
                       [this, &stmt, source, activation, context]() -> std::optional<Value> {
                         const Scope own{*activation, *context};
                         while (std::optional<Value> item = (*source.get<Ref<Iterator>>())->next()) {
                           store(*stmt.test_target, *item, own);
                           if (truth(evaluate(*stmt.test, own))) return item;
                         }
                         return std::nullopt;
                       });
}

Interpreter::Flow Interpreter::run_loop(const Stmt& stmt, Value iterable, Scope scope, Scope outer, int depth) {
  if (stmt.test) iterable = filtered(stmt, iterable, outer);
  Loop::Recurse recurse;
  if (stmt.recursive) {
    recurse = [this, &stmt, activation = &outer.activation, context = &outer.context](const Value& inner, int at) {
      const Deeper deeper(*this);
      return run_recursive(stmt, inner, {*activation, *context}, at);
    };
  }
  const auto loop = std::make_shared<Loop>(std::move(iterable), std::move(recurse), depth);
  struct End {
    Loop& loop;
    ~End() { loop.end(); }
  } const end{*loop};
  bool completed = false;  // an iteration, which `else` asks for
  Flow flow = Flow::kNext;
  while (flow != Flow::kBreak) {
    const std::optional<Value> item = loop->next();
    if (!item) break;
    store(*stmt.target, *item, scope);
    if (stmt.loop_slot >= 0) {
      scope.activation.variables[static_cast<std::size_t>(stmt.loop_slot)] = Value(Ref<Custom>(loop));
    }
    enter(stmt.loads, scope);
    flow = execute(stmt.body, scope);
    completed = completed || flow == Flow::kNext;
  }
  leave(stmt.loads, scope.activation);
  if (completed || stmt.otherwise.empty()) return Flow::kNext;
  enter(stmt.else_loads, scope);
  flow = execute(stmt.otherwise, scope);
  leave(stmt.else_loads, scope.activation);
  return flow;
}

Value Interpreter::make_macro(const Stmt& stmt, Scope scope) {
  for (Activation* at = &scope.activation; at != nullptr; at = at->parent) at->captured = true;
  return Ref<Custom>(std::make_shared<Macro>(stmt, scope.activation, scope.context));
}

Value Interpreter::call_macro(const Stmt& stmt, Activation& outer, Context& context, std::vector<Value> arguments) {
  const Deeper deeper(*this);
  auto own = std::make_unique<Activation>(&outer, stmt.function.slots);
  const Scope scope{*own, context};
  std::size_t next = 0;
  const auto set = [&](int slot) { own->variables[static_cast<std::size_t>(slot)] = std::move(arguments[next++]); };
  for (const int slot : stmt.parameter_slots) set(slot);
  if (stmt.uses_caller) set(stmt.caller_slot);
  if (stmt.uses_kwargs) set(stmt.kwargs_slot);
  if (stmt.uses_varargs) set(stmt.varargs_slot);
  const std::string text = capture([&] {
    enter(stmt.function.loads, scope);
    const std::size_t required = stmt.parameters.size() - stmt.defaults.size();
    for (std::size_t i = 0; i < stmt.parameters.size(); ++i) {
      Value& value = own->variables[static_cast<std::size_t>(stmt.parameter_slots[i])];
      if (!value.is<Missing>()) continue;
      Value given =
          i >= required
              ? evaluate(*stmt.defaults[i - required], scope)
              : Value::undefined(fmt::format("parameter {} was not provided", repr_text(stmt.parameters[i]->name)));
      value = std::move(given);
    }
    execute(stmt.body, scope);
  });
  if (own->captured) kept_.push_back(std::move(own));
  return text;
}

void Interpreter::call_block(const Stmt& stmt, Scope scope) {
  const Value caller = make_macro(stmt, scope);
  if (!stmt.expr) {  // {% generation %}
    write(str(call(caller, {})));
    return;
  }
  const Value callee = evaluate(*stmt.expr->items.front(), scope);
  Arguments given = arguments(*stmt.expr, scope, 1);
  if (given.take("caller")) {
    python_error("got multiple values for keyword argument 'caller'");
  }
  given.named.emplace_back("caller", caller);
  write(str(call(callee, std::move(given))));
}

void Interpreter::run_block(const Stmt& stmt, Scope scope) {
  auto inner = std::make_unique<Context>(&scope.context);
  for (const auto& [name, place] : stmt.visible) {
    const Value& value = variable(scope.activation, place);
    if (!value.is<Missing>()) inner->set(name, value);
  }
  auto own = std::make_unique<Activation>(nullptr, stmt.function.slots);
  const Scope block{*own, *inner};
  enter(stmt.function.loads, block);
  execute(stmt.body, block);
  if (!own->captured) return;
  kept_.push_back(std::move(own));
  kept_contexts_.push_back(std::move(inner));
}

}  // namespace metal_marlin::jinja
