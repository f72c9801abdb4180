#include "initialisers.h"

#include <fmt/format.h>
#include <llvm/Analysis/ValueTracking.h>
#include <llvm/IR/Constants.h>
#include <llvm/IR/InstIterator.h>
#include <llvm/IR/IntrinsicInst.h>

#include <set>

#include "metal_marlin/error.h"

namespace metal_marlin::air {
namespace {

constexpr unsigned kConstantSpace = 2;

[[noreturn]] void refuse(const std::string& kernel, const std::string& what) {
  throw Error(ErrorCode::kUnsupported, fmt::format("kernel {}: {}", kernel, what));
}

// The functions of llvm.global_ctors or llvm.global_dtors; null for what is none of the module's.
std::vector<llvm::Function*> functions_of(llvm::Module& module, const char* list) {
  std::vector<llvm::Function*> found;
  const llvm::GlobalVariable* const variable = module.getNamedGlobal(list);
  if (variable == nullptr || !variable->hasInitializer()) return found;
  const auto* const entries = llvm::dyn_cast<llvm::ConstantArray>(variable->getInitializer());
  if (entries == nullptr) return found;
  for (const llvm::Use& entry : entries->operands()) {
    llvm::Constant* const function = llvm::cast<llvm::Constant>(entry)->getAggregateElement(1);
    auto* const own = function == nullptr ? nullptr : llvm::dyn_cast<llvm::Function>(function->stripPointerCasts());
    found.push_back(own == nullptr || own->isDeclaration() ? nullptr : own);
  }
  return found;
}

bool is_own_constant(const llvm::Value* pointer) {
  const auto* const variable = llvm::dyn_cast<llvm::GlobalVariable>(llvm::getUnderlyingObject(pointer, 0));
  return variable != nullptr && variable->getAddressSpace() == kConstantSpace && variable->hasInitializer();
}

bool is_own_memory(const llvm::Value* pointer) {
  return is_own_constant(pointer) || llvm::isa<llvm::AllocaInst>(llvm::getUnderlyingObject(pointer, 0));
}

// Whether an initialiser's instruction keeps to its own variables and the module's constants; a function that it
// calls is left in `called`.
bool keeps_to_constants(const llvm::Instruction& instruction, std::vector<const llvm::Function*>& called) {
  if (const auto* const store = llvm::dyn_cast<llvm::StoreInst>(&instruction))
    return is_own_memory(store->getPointerOperand());
  if (const auto* const memory = llvm::dyn_cast<llvm::MemIntrinsic>(&instruction))
    return is_own_memory(memory->getDest());
  const auto* const call = llvm::dyn_cast<llvm::CallBase>(&instruction);
  if (call == nullptr) return !instruction.mayWriteToMemory();
  const llvm::Function* const callee = call->getCalledFunction();
  if (callee == nullptr) return false;
  if (!callee->isDeclaration()) {
    called.push_back(callee);
    return true;
  }
  if (callee->isIntrinsic()) return true;
  for (const llvm::Use& argument : call->args()) {
    if (argument->getType()->isPointerTy() && !is_own_memory(argument)) return false;
  }
  return callee->getName().starts_with("air.");
}

void check_initialiser(const llvm::Function& initialiser, const std::string& kernel) {
  std::vector<const llvm::Function*> open = {&initialiser};
  std::set<const llvm::Function*> seen;
  while (!open.empty()) {
    const llvm::Function* const function = open.back();
    open.pop_back();
    if (!seen.insert(function).second) continue;
    for (const llvm::Instruction& instruction : llvm::instructions(*function)) {
      if (!keeps_to_constants(instruction, open)) {
        refuse(kernel, fmt::format("the static initialiser {} (llvm.global_ctors) does more than give constants values",
                                   initialiser.getName().str()));
      }
    }
  }
}

}  // namespace

std::vector<llvm::Function*> static_initialisers(llvm::Module& module) {
  return functions_of(module, "llvm.global_ctors");
}

void refuse_foreign_code(llvm::Module& module, const std::string& kernel) {
  for (const llvm::Function* const initialiser : static_initialisers(module)) {
    if (initialiser == nullptr) refuse(kernel, "llvm.global_ctors names what is no function of the module");
    check_initialiser(*initialiser, kernel);
  }
  if (!functions_of(module, "llvm.global_dtors").empty())
    refuse(kernel, "llvm.global_dtors: what runs when a library goes is not supported");
  if (!module.getModuleInlineAsm().empty()) refuse(kernel, "the module has assembly");
  for (const llvm::GlobalIFunc& function : module.ifuncs()) {
    if (!function.use_empty())
      refuse(kernel, fmt::format("{} is an ifunc, which is not supported", function.getName().str()));
  }
  for (const llvm::GlobalAlias& alias : module.aliases()) {
    if (!alias.use_empty())
      refuse(kernel, fmt::format("{} is an alias, which is not supported", alias.getName().str()));
  }
  for (const llvm::GlobalVariable& variable : module.globals()) {
    if (variable.isDeclaration() && !variable.use_empty())
      refuse(kernel, fmt::format("the variable {} is not in the module", variable.getName().str()));
  }
  for (const llvm::Function& function : module.functions()) {
    for (const llvm::Instruction& instruction : llvm::instructions(function)) {
      const auto* const call = llvm::dyn_cast<llvm::CallBase>(&instruction);
      if (call != nullptr && call->isInlineAsm())
        refuse(kernel, fmt::format("{} has assembly", function.getName().str()));
    }
  }
}

}  // namespace metal_marlin::air
