// A template's syntax tree. Names are places in the frames of functions, which scopes.h finds.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "chat_template/value.h"

namespace metal_marlin::jinja {

// A variable: how many functions out, and its place among that one's variables.
struct Place {
  int hops = 0;
  int slot = -1;
};

enum class ExprKind {
  kConst,
  kName,
  kMember,  // NAME.MEMBER of a namespace, to assign to
  kTuple,
  kList,
  kDict,         // key, value, key, value, ...
  kConditional,  // test, then, else or null
  kOr,
  kAnd,
  kNot,
  kCompare,  // with an operator before each item but the first
  kBinary,
  kConcat,
  kNegative,
  kPositive,
  kAttribute,
  kSubscript,
  kSlice,  // start, stop, step, each may be null
  kCall,
  kFilter,  // the first item is null where it filters a block
  kTest,
};

enum class Operator { kAdd, kSub, kMul, kDiv, kFloorDiv, kMod, kPow, kEq, kNe, kLt, kLe, kGt, kGe, kIn, kNotIn };

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  ExprKind kind = ExprKind::kConst;
  int line = 0;
  std::string name;    // of a variable, attribute, filter or test
  std::string member;  // of a kMember
  Value constant;
  std::vector<ExprPtr> items;  // operands; of a call the callee, of a filter and a test what it is applied to, first
  std::vector<Operator> operators;
  std::vector<std::pair<std::string, ExprPtr>> named;  // arguments by name
  ExprPtr more;                                        // *arguments
  ExprPtr more_named;                                  // **arguments
  Place place;                                         // of a name
};

// What a frame's variables are when it is entered.
struct Load {
  enum class From { kParameter, kContext, kVariable, kNothing };
  int slot = 0;
  From from = From::kNothing;
  std::string name;  // in the context
  Place variable;
};

enum class StmtKind {
  kOutput,
  kAssign,
  kAssignBlock,
  kFor,
  kIf,
  kWith,
  kMacro,
  kCallBlock,
  kFilterBlock,
  kBlock,
  kScope,
  kBreak,
  kContinue,
  kRefused,  // what fails when it is reached
};

struct Stmt;
using Body = std::vector<std::unique_ptr<Stmt>>;

// A Python function that jinja2 would make: its variables live as long as a call of it.
struct Function {
  std::vector<Load> loads;
  int slots = 0;
};

struct Stmt {
  StmtKind kind = StmtKind::kOutput;
  int line = 0;
  std::string name;            // of a macro or block; the message of what is refused
  std::vector<ExprPtr> exprs;  // what is printed; the values of `with`
  ExprPtr target;              // of assignments and loops
  ExprPtr expr;                // value, condition, what is looped over, call or filter
  ExprPtr test;                // of a loop's `if`
  Body body;
  Body otherwise;
  std::vector<std::unique_ptr<Stmt>> elifs;
  std::vector<ExprPtr> parameters;  // names; of `with` its targets
  std::vector<ExprPtr> defaults;    // of the last parameters
  bool recursive = false;
  bool scoped = false;
  bool has_loop = false;  // the body, or a function in it, asks for `loop`
  bool exported = false;  // a macro, or an assignment's names, at the top level
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
  Place place;                   // of a macro's name
  std::vector<Load> loads;       // of the frame that the body is
  std::vector<Load> else_loads;  // of a loop's
  int loop_slot = -1, caller_slot = -1, varargs_slot = -1, kwargs_slot = -1;
  std::vector<int> parameter_slots;
  Function function;                                   // of a macro, call, block or recursive loop
  Function test_function;                              // of a loop's test
  ExprPtr test_target;                                 // the loop's target once more, in that function
  std::vector<std::pair<std::string, Place>> visible;  // variables that a scoped block sees
};

struct Tree {
  Body body;
  Function root;
};

}  // namespace metal_marlin::jinja
