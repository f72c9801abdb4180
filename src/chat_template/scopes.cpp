#include "chat_template/scopes.h"

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>

#include "chat_template/expression_parser.h"
#include "chat_template/failure.h"
#include "chat_template/library.h"

namespace metal_marlin::jinja {
namespace {

// Calls `each` with the names of an expression, in their order.
void for_names(const Expr* expr, const std::function<void(const Expr&)>& each) {
  if (expr == nullptr) return;
  if (expr->kind == ExprKind::kName || expr->kind == ExprKind::kMember) each(*expr);
  for (const ExprPtr& item : expr->items) for_names(item.get(), each);
  for (const auto& [name, value] : expr->named) for_names(value.get(), each);
  for_names(expr->more.get(), each);
  for_names(expr->more_named.get(), each);
}

// Calls `each` with the names of statements, in the order of jinja2's nodes, and whether they are assigned to; what is
// in blocks is not theirs.
void for_names(const Body& body, const std::function<void(const Expr&, bool)>& each) {
  const auto expr = [&](const ExprPtr& node, bool stored = false) {
    for_names(node.get(), [&](const Expr& name) { each(name, stored); });
  };
  for (const auto& stmt : body) {
    if (stmt->kind == StmtKind::kBlock) continue;
    if (stmt->kind != StmtKind::kMacro) expr(stmt->target, true);
    expr(stmt->expr);
    for (const ExprPtr& parameter : stmt->parameters) expr(parameter, true);
    for (const ExprPtr& node : stmt->exprs) expr(node);
    for (const ExprPtr& node : stmt->defaults) expr(node);
    for_names(stmt->body, each);
    for_names(stmt->elifs, each);
    for_names(stmt->otherwise, each);
    expr(stmt->test);
  }
}

// Those of the names that statements ask for before they assign to them.
std::set<std::string> undeclared(const Body& body, std::set<std::string> names) {
  std::set<std::string> found;
  for_names(body, [&](const Expr& name, bool stored) {
    if (name.kind == ExprKind::kMember) return;
    if (stored) {
      names.erase(name.name);
    } else if (names.contains(name.name)) {
      found.insert(name.name);
    }
  });
  return found;
}

bool has_scoped_block(const Body& body) {
  return std::any_of(body.begin(), body.end(), [](const auto& stmt) {
    return stmt->scoped || has_scoped_block(stmt->body) || has_scoped_block(stmt->elifs) ||
           has_scoped_block(stmt->otherwise);
  });
}

ExprPtr clone_target(const Expr& target) {
  ExprPtr out = make_expr(target.kind, target.line);
  out->name = target.name;
  out->member = target.member;
  for (const ExprPtr& item : target.items) out->items.push_back(clone_target(*item));
  return out;
}

// A function's variables: each is of a name and of how deep its frame is, so that blocks beside each other share them.
struct FunctionScope {
  const FunctionScope* parent = nullptr;
  std::map<std::pair<int, std::string>, int> slots;
  int slot(int level, const std::string& name) {
    return slots.emplace(std::pair(level, name), static_cast<int>(slots.size())).first->second;
  }
};

// The names of a frame.
struct Symbols {
  struct Found {
    const FunctionScope* function;
    int slot;
  };
  struct Source {
    Load::From from;
    std::string name;
    Found alias{};
  };

  FunctionScope* function = nullptr;
  const Symbols* parent = nullptr;
  int level = 0;
  std::map<std::string, int> refs;
  std::map<int, Source> loads;
  std::set<std::string> stores;

  int define(const std::string& name, const Source& source) {
    const int slot = function->slot(level, name);
    refs[name] = slot;
    loads[slot] = source;
    return slot;
  }
  [[nodiscard]] std::optional<Found> find(const std::string& name) const {
    for (const Symbols* at = this; at != nullptr; at = at->parent) {
      if (const auto found = at->refs.find(name); found != at->refs.end()) return Found{at->function, found->second};
    }
    return std::nullopt;
  }
  [[nodiscard]] std::optional<Found> find_outside(const std::string& name) const {
    return parent ? parent->find(name) : std::nullopt;
  }
  void load(const std::string& name) {
    if (!find(name)) define(name, {Load::From::kContext, name});
  }
  void store(const std::string& name) {
    stores.insert(name);
    if (refs.contains(name)) return;
    const auto outside = find_outside(name);
    define(name, outside ? Source{Load::From::kVariable, name, *outside} : Source{Load::From::kNothing, name});
  }
  int declare_parameter(const std::string& name) {
    stores.insert(name);
    return define(name, {Load::From::kParameter, name});
  }
  // After branches, of which any may have been taken: what they assigned to begins as what is outside.
  void join(const std::vector<Symbols>& branches) {
    std::set<std::string> stored;
    for (const Symbols& branch : branches) {
      for (const std::string& name : branch.stores) {
        if (!stores.contains(name)) stored.insert(name);
      }
    }
    for (const Symbols& branch : branches) {
      for (const auto& [name, slot] : branch.refs) refs[name] = slot;
      for (const auto& [slot, source] : branch.loads) loads[slot] = source;
      stores.insert(branch.stores.begin(), branch.stores.end());
    }
    for (const std::string& name : stored) {
      const auto outside = find_outside(name);
      loads[refs.at(name)] =
          outside ? Source{Load::From::kVariable, name, *outside} : Source{Load::From::kContext, name};
    }
  }
};

// Finds a frame's names, without those of the frames in it.
class Analysis {
 public:
  explicit Analysis(Symbols& symbols) : symbols_(&symbols) {}

  void expr(const ExprPtr& node) {
    for_names(node.get(), [&](const Expr& name) { symbols_->load(name.name); });
  }
  void target(const ExprPtr& node, bool parameter = false) {
    for_names(node.get(), [&](const Expr& name) {
      if (name.kind == ExprKind::kMember) {
        symbols_->load(name.name);
      } else if (parameter) {
        symbols_->declare_parameter(name.name);
      } else {
        symbols_->store(name.name);
      }
    });
  }
  void body(const Body& statements) {
    for (const auto& statement : statements) stmt(*statement);
  }

 private:
  void stmt(const Stmt& stmt) {
    switch (stmt.kind) {
      case StmtKind::kOutput:
      case StmtKind::kWith:
        for (const ExprPtr& node : stmt.exprs) expr(node);
        break;
      case StmtKind::kAssign: expr(stmt.expr); [[fallthrough]];
      case StmtKind::kAssignBlock: target(stmt.target); break;
      case StmtKind::kIf: branches(stmt); break;
      case StmtKind::kMacro: symbols_->store(stmt.name); break;
      case StmtKind::kFor:
      case StmtKind::kCallBlock:
      case StmtKind::kFilterBlock: expr(stmt.expr); break;
      default: break;
    }
  }
  void branches(const Stmt& stmt) {
    expr(stmt.expr);
    Symbols* const here = symbols_;
    std::vector<Symbols> all;
    for (const Body* branch : {&stmt.body, &stmt.elifs, &stmt.otherwise}) {
      Symbols copy = *here;
      symbols_ = &copy;
      body(*branch);
      all.push_back(std::move(copy));
    }
    symbols_ = here;
    here->join(all);
  }

  Symbols* symbols_;
};

// A place in the tree, as the compiler of jinja2 sees it.
struct Frame {
  Symbols symbols;
  bool toplevel = false;
  bool soft = false;  // in a branch, where a filter need be there but when it is reached
};

class Resolver {
 public:
  Tree run(Body body) {
    Tree tree;
    tree.body = std::move(body);
    FunctionScope scope;
    Frame frame;
    frame.symbols.function = &scope;
    frame.toplevel = true;
    Analysis(frame.symbols).body(tree.body);
    bind(tree.body, frame);
    finish(tree.root, frame.symbols);
    return tree;
  }

 private:
  static Frame inner(const Frame& frame, FunctionScope* function = nullptr) {
    Frame out;
    out.symbols.parent = &frame.symbols;
    out.symbols.level = frame.symbols.level + 1;
    out.symbols.function = function ? function : frame.symbols.function;
    if (function) function->parent = frame.symbols.function;
    return out;
  }

  static Place place(const Symbols::Found& found, const FunctionScope* from) {
    Place out{0, found.slot};
    for (; from != found.function; from = from->parent) ++out.hops;
    return out;
  }
  static Place place(const Frame& frame, const std::string& name, int line) {
    const auto found = frame.symbols.find(name);
    if (!found) {
      throw Failure(FailureKind::kSyntax,
                    "Tried to resolve a name to a reference that was unknown to the frame (" + repr_text(name) + ")",
                    line);
    }
    return place(*found, frame.symbols.function);
  }

  static std::vector<Load> loads(const Symbols& symbols) {
    std::vector<Load> out;
    for (const auto& [slot, source] : symbols.loads) {
      if (source.from == Load::From::kParameter) continue;
      Load load{slot, source.from, source.name, {}};
      if (source.from == Load::From::kVariable) load.variable = place(source.alias, symbols.function);
      out.push_back(std::move(load));
    }
    return out;
  }
  static void finish(Function& function, const Symbols& symbols) {
    function.loads = loads(symbols);
    function.slots = static_cast<int>(symbols.function->slots.size());
  }

  void bind(Expr* expr, const Frame& frame) const {
    if (expr == nullptr) return;
    if (expr->kind == ExprKind::kName || expr->kind == ExprKind::kMember) {
      expr->place = place(frame, expr->name, expr->line);
    }
    const bool filter = expr->kind == ExprKind::kFilter;
    if ((filter && !has_filter(expr->name)) || (expr->kind == ExprKind::kTest && !has_test(expr->name))) {
      const char* const kind = filter ? "filter" : "test";
      if (!frame.soft) {
        throw Failure(FailureKind::kSyntax, fmt::format("No {} named {}.", kind, repr_text(expr->name)), expr->line);
      }
    }
    std::optional<Frame> soft;
    if (expr->kind == ExprKind::kConditional && !frame.soft) {
      soft = frame;
      soft->soft = true;
    }
    const Frame& within = soft ? *soft : frame;
    for (const ExprPtr& item : expr->items) bind(item.get(), within);
    for (const auto& [name, value] : expr->named) bind(value.get(), within);
    bind(expr->more.get(), within);
    bind(expr->more_named.get(), within);
  }
  void bind(const std::vector<ExprPtr>& exprs, const Frame& frame) const {
    for (const ExprPtr& expr : exprs) bind(expr.get(), frame);
  }
  void bind(Body& body, const Frame& frame) {
    for (auto& stmt : body) bind(*stmt, frame);
  }

  void bind(Stmt& stmt, const Frame& frame) {
    switch (stmt.kind) {
      case StmtKind::kOutput: bind(stmt.exprs, frame); break;
      case StmtKind::kAssign:
        stmt.exported = frame.toplevel;
        bind(stmt.expr.get(), frame);
        bind(stmt.target.get(), frame);
        break;
      case StmtKind::kAssignBlock: bind_assign_block(stmt, frame); break;
      case StmtKind::kFor: bind_for(stmt, frame); break;
      case StmtKind::kIf: bind_if(stmt, frame); break;
      case StmtKind::kWith: bind_with(stmt, frame); break;
      case StmtKind::kMacro:
        bind_macro(stmt, frame);
        stmt.exported = frame.toplevel;
        stmt.place = place(frame, stmt.name, stmt.line);
        break;
      case StmtKind::kCallBlock:
        bind_macro(stmt, frame);
        bind(stmt.expr.get(), frame);
        break;
      case StmtKind::kFilterBlock: bind_scope(stmt, frame, stmt.expr.get()); break;
      case StmtKind::kScope: bind_scope(stmt, frame, nullptr); break;
      case StmtKind::kBlock: bind_block(stmt, frame); break;
      default: break;
    }
  }

  // A block with variables of its own, and what filters it.
  void bind_scope(Stmt& stmt, const Frame& frame, Expr* filter) {
    Frame own = inner(frame);
    if (stmt.kind == StmtKind::kFilterBlock) Analysis(own.symbols).expr(stmt.expr);
    Analysis(own.symbols).body(stmt.body);
    bind(stmt.body, own);
    bind(filter, own);
    stmt.loads = loads(own.symbols);
  }

  void bind_assign_block(Stmt& stmt, const Frame& frame) {
    stmt.exported = frame.toplevel;
    bind_scope(stmt, frame, stmt.expr.get());
    bind(stmt.target.get(), frame);
  }

  void bind_with(Stmt& stmt, const Frame& frame) {
    Frame own = inner(frame);
    for (const ExprPtr& target : stmt.parameters) Analysis(own.symbols).target(target, true);
    Analysis(own.symbols).body(stmt.body);
    bind(stmt.parameters, own);
    bind(stmt.exprs, frame);
    bind(stmt.body, own);
    stmt.loads = loads(own.symbols);
  }

  void bind_if(Stmt& stmt, const Frame& frame) {
    Frame soft = frame;
    soft.soft = true;
    bind(stmt.expr.get(), soft);
    bind(stmt.body, soft);
    for (auto& elif : stmt.elifs) {
      bind(elif->expr.get(), soft);
      bind(elif->body, soft);
    }
    bind(stmt.otherwise, soft);
  }

  void refuse_to_assign_loop(const Stmt& stmt) const {
    const auto check = [](const Expr& name, bool stored) {
      if (!stored || name.kind != ExprKind::kName || name.name != "loop") return;
      throw Failure(FailureKind::kSyntax, "Can't assign to special loop variable in for-loop target", name.line);
    };
    for_names(stmt.target.get(), [&](const Expr& name) { check(name, true); });
    for_names(stmt.body, check);
    for_names(stmt.otherwise, check);
  }

  void bind_for(Stmt& stmt, const Frame& frame) {
    refuse_to_assign_loop(stmt);
    FunctionScope own;
    FunctionScope* const function = stmt.recursive ? &own : nullptr;
    Frame loop = inner(frame, function);
    stmt.has_loop = stmt.recursive || !undeclared(stmt.body, {"loop"}).empty() || has_scoped_block(stmt.body);
    if (stmt.has_loop) stmt.loop_slot = loop.symbols.declare_parameter("loop");
    Analysis(loop.symbols).target(stmt.target, true);
    Analysis(loop.symbols).body(stmt.body);
    Frame otherwise = inner(frame, function);
    Analysis(otherwise.symbols).body(stmt.otherwise);
    if (stmt.test) bind_loop_test(stmt, frame);
    bind(stmt.target.get(), loop);
    bind(stmt.expr.get(), frame);
    bind(stmt.body, loop);
    bind(stmt.otherwise, otherwise);
    stmt.loads = loads(loop.symbols);
    stmt.else_loads = loads(otherwise.symbols);
    if (function) stmt.function.slots = static_cast<int>(function->slots.size());
  }

  void bind_loop_test(Stmt& stmt, const Frame& frame) const {
    FunctionScope own;
    Frame test = inner(frame, &own);
    stmt.test_target = clone_target(*stmt.target);
    Analysis(test.symbols).target(stmt.test_target, true);
    Analysis(test.symbols).expr(stmt.test);
    bind(stmt.test_target.get(), test);
    bind(stmt.test.get(), test);
    finish(stmt.test_function, test.symbols);
  }

  void bind_macro(Stmt& stmt, const Frame& frame) {
    FunctionScope own;
    Frame macro = inner(frame, &own);
    std::set<std::string> names;
    for (const ExprPtr& parameter : stmt.parameters) {
      Analysis(macro.symbols).target(parameter, true);
      names.insert(parameter->name);
    }
    for (const ExprPtr& value : stmt.defaults) Analysis(macro.symbols).expr(value);
    Analysis(macro.symbols).body(stmt.body);
    const std::set<std::string> special = undeclared(stmt.body, {"caller", "kwargs", "varargs"});
    if (special.contains("caller")) {
      check_explicit_caller(stmt);
      stmt.uses_caller = !names.contains("caller");
      if (stmt.uses_caller) stmt.caller_slot = macro.symbols.declare_parameter("caller");
    }
    stmt.uses_kwargs = special.contains("kwargs") && !names.contains("kwargs");
    if (stmt.uses_kwargs) stmt.kwargs_slot = macro.symbols.declare_parameter("kwargs");
    stmt.uses_varargs = special.contains("varargs") && !names.contains("varargs");
    if (stmt.uses_varargs) stmt.varargs_slot = macro.symbols.declare_parameter("varargs");
    bind(stmt.parameters, macro);
    for (const ExprPtr& parameter : stmt.parameters) stmt.parameter_slots.push_back(parameter->place.slot);
    bind(stmt.defaults, macro);
    bind(stmt.body, macro);
    finish(stmt.function, macro.symbols);
  }

  static void check_explicit_caller(const Stmt& stmt) {
    const std::size_t required = stmt.parameters.size() - stmt.defaults.size();
    for (std::size_t i = 0; i < required; ++i) {
      if (stmt.parameters[i]->name != "caller") continue;
      throw Failure(FailureKind::kSyntax,
                    "When defining macros or call blocks the special \"caller\" argument must be omitted or be given a "
                    "default.",
                    stmt.line);
    }
  }

  void bind_block(Stmt& stmt, const Frame& frame) {
    FunctionScope own;
    Frame block;
    block.symbols.function = &own;
    Analysis(block.symbols).body(stmt.body);
    bind(stmt.body, block);
    finish(stmt.function, block.symbols);
    if (!stmt.scoped) return;
    std::set<std::string> seen;
    for (const Symbols* at = &frame.symbols; at != nullptr; at = at->parent) {
      for (const std::string& name : at->stores) {
        if (seen.insert(name).second) stmt.visible.emplace_back(name, place(frame, name, stmt.line));
      }
    }
  }
};

}  // namespace

Tree resolve(Body body) {
  return Resolver().run(std::move(body));
}

}  // namespace metal_marlin::jinja
