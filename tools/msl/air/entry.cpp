#include "entry.h"

#include <fmt/format.h>
#include <llvm/Demangle/Demangle.h>
#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/InstIterator.h>
#include <llvm/IR/Module.h>
#include <llvm/IR/ReplaceConstant.h>
#include <llvm/Passes/PassBuilder.h>
#include <llvm/Transforms/IPO/AlwaysInliner.h>
#include <llvm/Transforms/IPO/GlobalDCE.h>

#include <cstddef>

#include "initialisers.h"
#include "metal_marlin/error.h"
#include "msl_abi.h"

namespace metal_marlin::air {
namespace {

using llvm::Type;
using llvm::Value;

// MslConstantValues as the kernel's module sees it: a variable of another one.
llvm::Constant* constant_values(llvm::Module& module, Machine machine) {
  llvm::LLVMContext& context = module.getContext();
  llvm::GlobalVariable* values = module.getNamedGlobal(kConstantValues);
  if (values == nullptr) {
    auto* const type = llvm::ArrayType::get(Type::getInt8Ty(context), sizeof(MslConstantValues));
    values = new llvm::GlobalVariable(module, type, false, llvm::GlobalValue::ExternalLinkage, nullptr, kConstantValues,
                                      nullptr, llvm::GlobalValue::NotThreadLocal, machine == Machine::kPtx ? 1 : 0);
    values->setAlignment(llvm::Align(16));
  }
  return llvm::ConstantExpr::getPointerBitCastOrAddrSpaceCast(values, llvm::PointerType::get(context, 0));
}

llvm::Constant* value_at(llvm::Module& module, Machine machine, std::size_t offset) {
  return llvm::ConstantExpr::getInBoundsGetElementPtr(
      Type::getInt8Ty(module.getContext()), constant_values(module, machine),
      llvm::ArrayRef<llvm::Constant*>{llvm::ConstantInt::get(Type::getInt64Ty(module.getContext()), offset)});
}

class EntryBuilder {
 public:
  EntryBuilder(llvm::Module& module, const Kernel& kernel)
      : module_(module), kernel_(kernel), builder_(module.getContext()) {}

  void host(const std::string& name) {
    open(name, {builder_.getPtrTy()});
    Value* const thread = entry_->getArg(0);
    call([this, thread](const Argument& argument, Type* type) {
      if (argument.kind == ArgumentKind::kBuiltin) {
        return combine(type, [this, thread, &argument](unsigned axis) {
          const std::size_t at = offsetof(MslThread, builtins) + (argument.index * 3 + axis) * sizeof(std::uint32_t);
          return builder_.CreateLoad(builder_.getInt32Ty(), at_offset(thread, at));
        });
      }
      const std::size_t list =
          argument.kind == ArgumentKind::kBuffer ? offsetof(MslThread, buffers) : offsetof(MslThread, threadgroups);
      Value* const pointers = builder_.CreateLoad(builder_.getPtrTy(), at_offset(thread, list));
      Value* const place = at_offset(pointers, argument.index * sizeof(void*));
      Value* const pointer = builder_.CreateLoad(builder_.getPtrTy(), place);
      return argument.optional ? or_zeros(pointer, argument) : pointer;
    });
    builder_.CreateRetVoid();
  }

  // Parameters: the grid, then a buffer's address, a `constant` reference's bytes or a threadgroup
  // allocation's offset for each argument.
  void ptx(const std::string& name) {
    std::vector<Type*> types = {builder_.getPtrTy()};
    for (std::size_t i = 0; i < kernel_.arguments.size(); ++i) {
      const Argument& argument = kernel_.arguments[i];
      if (argument.kind == ArgumentKind::kBuiltin) continue;
      types.push_back(argument.kind == ArgumentKind::kThreadgroup ? builder_.getInt32Ty()
                      : argument.by_value                         ? static_cast<Type*>(builder_.getPtrTy())
                                          : kernel_function()->getArg(static_cast<unsigned>(i))->getType());
    }
    open(name, types);
    entry_->setCallingConv(llvm::CallingConv::PTX_Kernel);
    by_value(0, 3 * sizeof(std::uint32_t), alignof(std::uint32_t));
    std::vector<Value*> grid;
    for (unsigned axis = 0; axis < 3; ++axis)
      grid.push_back(builder_.CreateLoad(builder_.getInt32Ty(), at_offset(entry_->getArg(0), axis * 4)));
    leave_if_outside(grid);
    unsigned next = 1;
    call([this, &grid, &next](const Argument& argument, Type* type) {
      if (argument.kind == ArgumentKind::kBuiltin) {
        return combine(type, [this, &grid, &argument](unsigned axis) { return builtin(argument.index, axis, grid); });
      }
      Value* const parameter = entry_->getArg(next++);
      if (argument.by_value) by_value(next - 1, argument.size, argument.alignment);
      if (argument.kind != ArgumentKind::kThreadgroup)
        return argument.optional && !argument.by_value ? or_zeros(parameter, argument) : parameter;
      return builder_.CreateGEP(builder_.getInt8Ty(), dynamic_memory(), parameter);
    });
    builder_.CreateRetVoid();
    annotate();
  }

 private:
  llvm::Function* kernel_function() { return module_.getFunction(kernel_.name); }

  void open(const std::string& name, llvm::ArrayRef<Type*> parameters) {
    entry_ = llvm::Function::Create(llvm::FunctionType::get(builder_.getVoidTy(), parameters, false),
                                    llvm::GlobalValue::ExternalLinkage, name, module_);
    entry_->addFnAttr(llvm::Attribute::Convergent);
    entry_->addFnAttr(llvm::Attribute::NoUnwind);
    builder_.SetInsertPoint(llvm::BasicBlock::Create(module_.getContext(), "", entry_));
  }

  template <typename F>
  void call(F value_of) {
    for (llvm::Function* const initialiser : static_initialisers(module_)) builder_.CreateCall(initialiser);
    std::vector<Value*> values;
    for (std::size_t i = 0; i < kernel_.arguments.size(); ++i) {
      values.push_back(value_of(kernel_.arguments[i], kernel_function()->getArg(static_cast<unsigned>(i))->getType()));
    }
    builder_.CreateCall(kernel_function(), values)->setConvergent();
  }

  Value* at_offset(Value* base, std::size_t bytes) {
    return builder_.CreateConstInBoundsGEP1_64(builder_.getInt8Ty(), base, bytes);
  }

  // Kernels read some arguments before they ask whether these are there.
  Value* or_zeros(Value* pointer, const Argument& argument) {
    const unsigned space = pointer->getType()->getPointerAddressSpace();
    auto* const type = llvm::ArrayType::get(builder_.getInt8Ty(), argument.size);
    auto* const zeros = new llvm::GlobalVariable(module_, type, true, llvm::GlobalValue::InternalLinkage,
                                                 llvm::ConstantAggregateZero::get(type), "msl_nothing", nullptr,
                                                 llvm::GlobalValue::NotThreadLocal, space);
    zeros->setAlignment(llvm::Align(16));
    return builder_.CreateSelect(builder_.CreateIsNull(pointer), zeros, pointer);
  }

  // A position of the argument's type from 32-bit parts.
  template <typename F>
  Value* combine(Type* type, F part) {
    const auto* const vector = llvm::dyn_cast<llvm::FixedVectorType>(type);
    if (vector == nullptr) return builder_.CreateTrunc(part(0), type);
    Value* out = llvm::PoisonValue::get(type);
    for (unsigned axis = 0; axis < vector->getNumElements(); ++axis)
      out = builder_.CreateInsertElement(out, builder_.CreateTrunc(part(axis), type->getScalarType()), axis);
    return out;
  }

  void by_value(unsigned parameter, std::uint32_t size, std::uint32_t alignment) {
    llvm::LLVMContext& context = module_.getContext();
    auto* const bytes = llvm::ArrayType::get(builder_.getInt8Ty(), size);
    entry_->addParamAttr(parameter, llvm::Attribute::getWithByValType(context, bytes));
    entry_->addParamAttr(parameter, llvm::Attribute::getWithAlignment(context, llvm::Align(alignment)));
  }

  Value* builtin(std::uint32_t which, unsigned axis, const std::vector<Value*>& grid) {
    Type* const word = builder_.getInt32Ty();
    const auto callee = module_.getOrInsertFunction("msl.builtin", word, word, word, word, word, word);
    return builder_.CreateCall(callee, {builder_.getInt32(which), builder_.getInt32(axis), grid[0], grid[1], grid[2]});
  }

  void leave_if_outside(const std::vector<Value*>& grid) {
    Type* const word = builder_.getInt32Ty();
    const auto callee = module_.getOrInsertFunction("msl.outside", builder_.getInt1Ty(), word, word, word);
    auto* const leave = llvm::BasicBlock::Create(module_.getContext(), "", entry_);
    auto* const stay = llvm::BasicBlock::Create(module_.getContext(), "", entry_);
    builder_.CreateCondBr(builder_.CreateCall(callee, grid), leave, stay);
    builder_.SetInsertPoint(leave);
    builder_.CreateRetVoid();
    builder_.SetInsertPoint(stay);
  }

  llvm::Constant* dynamic_memory() {
    constexpr const char* kName = "msl_dynamic_threadgroup";
    if (auto* const known = module_.getNamedGlobal(kName)) return known;
    auto* const memory = new llvm::GlobalVariable(module_, llvm::ArrayType::get(builder_.getInt8Ty(), 0), false,
                                                  llvm::GlobalValue::ExternalLinkage, nullptr, kName, nullptr,
                                                  llvm::GlobalValue::NotThreadLocal, 3);
    memory->setAlignment(llvm::Align(16));
    return memory;
  }

  void annotate() {
    llvm::LLVMContext& context = module_.getContext();
    auto* const annotations = module_.getOrInsertNamedMetadata("nvvm.annotations");
    const auto add = [&](const char* what, std::uint32_t value) {
      annotations->addOperand(
          llvm::MDNode::get(context, {llvm::ConstantAsMetadata::get(entry_), llvm::MDString::get(context, what),
                                      llvm::ConstantAsMetadata::get(builder_.getInt32(value))}));
    };
    add("kernel", 1);
    if (kernel_.max_threads > 0) add("maxntidx", kernel_.max_threads);
  }

  llvm::Module& module_;
  const Kernel& kernel_;
  llvm::IRBuilder<> builder_;
  llvm::Function* entry_ = nullptr;
};

// "local_sums" of "rms_single_row<float, 4>(...)::local_sums".
std::string variable_name(const llvm::GlobalVariable& variable) {
  std::string name = variable.getName().str();
  if (const std::size_t dot = name.find('.'); dot != std::string::npos) name.resize(dot);
  name = llvm::demangle(name);
  const std::size_t colons = name.rfind("::");
  return colons == std::string::npos ? name : name.substr(colons + 2);
}

// Its description in memory, as msl_threadgroup_variable takes it.
llvm::Constant* variable_key(llvm::Module& module, const llvm::GlobalVariable& variable, llvm::IRBuilder<>& builder) {
  const auto size = module.getDataLayout().getTypeAllocSize(variable.getValueType()).getFixedValue();
  const std::uint64_t alignment = variable.getAlign().valueOrOne().value();
  llvm::Constant* const fields[] = {builder.CreateGlobalString(variable_name(variable)),
                                    builder.CreateGlobalString(module.getModuleIdentifier()), builder.getInt32(0),
                                    builder.getInt32(static_cast<std::uint32_t>(size)),
                                    builder.getInt32(static_cast<std::uint32_t>(alignment))};
  llvm::Constant* const key = llvm::ConstantStruct::getAnon(fields);
  return new llvm::GlobalVariable(module, key->getType(), true, llvm::GlobalValue::InternalLinkage, key,
                                  "msl_threadgroup_key");
}

}  // namespace

void bind_constants(llvm::Module& module, Machine machine, const Kernel& kernel, const ConstantPlaces& places) {
  std::map<const Value*, std::uint32_t> place_of;
  for (const FunctionConstant& constant : kernel.constants) {
    llvm::GlobalVariable* const variable = module.getNamedGlobal(constant.variable->getName());
    if (variable == nullptr) continue;
    place_of[variable] = places.at(constant.index);
  }
  if (llvm::Function* const asked = module.getFunction("air.is_function_constant_defined")) {
    for (llvm::User* const user : llvm::make_early_inc_range(asked->users())) {
      auto* const call = llvm::dyn_cast<llvm::CallInst>(user);
      const auto found = call == nullptr ? place_of.end() : place_of.find(call->getArgOperand(0)->stripPointerCasts());
      if (found == place_of.end()) {
        throw Error(
            ErrorCode::kCorruptFile,
            fmt::format("kernel {}: it asks whether something is defined that is no function constant", kernel.name));
      }
      llvm::IRBuilder<> builder(call);
      Value* const flag = builder.CreateLoad(
          builder.getInt8Ty(), value_at(module, machine, offsetof(MslConstantValues, defined) + found->second));
      call->replaceAllUsesWith(builder.CreateICmpNE(flag, builder.getInt8(0)));
      call->eraseFromParent();
    }
  }
  for (const auto& [variable, place] : place_of) {
    auto* const known = const_cast<llvm::GlobalVariable*>(llvm::cast<llvm::GlobalVariable>(variable));
    known->replaceAllUsesWith(value_at(module, machine, offsetof(MslConstantValues, value) + std::size_t{place} * 16));
    known->eraseFromParent();
  }
}

void build_entry(llvm::Module& module, Machine machine, const Kernel& kernel, const std::string& name) {
  EntryBuilder builder(module, kernel);
  if (machine == Machine::kHost) {
    builder.host(name);
  } else {
    builder.ptx(name);
  }
  for (const char* const list : {"llvm.global_ctors", "llvm.compiler.used", "llvm.used"}) {
    if (llvm::GlobalVariable* const variable = module.getNamedGlobal(list)) variable->eraseFromParent();
  }
}

void inline_all(llvm::Module& module, const std::string& entry, const std::string& kernel) {
  for (llvm::Function& function : module.functions()) {
    if (function.isDeclaration() || function.getName() == entry) continue;
    function.setLinkage(llvm::GlobalValue::InternalLinkage);
    function.setComdat(nullptr);
    function.removeFnAttr(llvm::Attribute::NoInline);
    function.removeFnAttr(llvm::Attribute::OptimizeNone);
    function.addFnAttr(llvm::Attribute::AlwaysInline);
  }
  llvm::ModuleAnalysisManager modules;
  llvm::FunctionAnalysisManager functions;
  llvm::LoopAnalysisManager loops;
  llvm::CGSCCAnalysisManager components;
  llvm::PassBuilder passes;
  passes.registerModuleAnalyses(modules);
  passes.registerCGSCCAnalyses(components);
  passes.registerFunctionAnalyses(functions);
  passes.registerLoopAnalyses(loops);
  passes.crossRegisterProxies(loops, functions, components, modules);
  llvm::ModulePassManager manager;
  manager.addPass(llvm::AlwaysInlinerPass(false));
  manager.addPass(llvm::GlobalDCEPass());
  manager.run(module, modules);
  for (const llvm::Function& function : module.functions()) {
    if (!function.isDeclaration() && function.getName() != entry) {
      throw Error(ErrorCode::kUnsupported, fmt::format("kernel {}: {} is recursive, or called by pointer", kernel,
                                                       llvm::demangle(function.getName())));
    }
  }
}

void localise_variables(llvm::Module& module, Machine machine, const std::string& entry,
                        const std::vector<std::string>& threadgroup_variables, const std::vector<std::string>& own) {
  llvm::IRBuilder<> builder(&*module.getFunction(entry)->getEntryBlock().getFirstInsertionPt());
  const auto replace = [&module](const std::string& name, auto make) {
    llvm::GlobalVariable* const variable = module.getNamedGlobal(name);
    if (variable == nullptr) return;
    llvm::convertUsersOfConstantsToInstructions({variable});
    variable->removeDeadConstantUsers();
    if (!variable->use_empty()) variable->replaceAllUsesWith(make(*variable));
    variable->eraseFromParent();
  };
  for (const std::string& name : own) {
    replace(name, [&](llvm::GlobalVariable& variable) {
      llvm::AllocaInst* const local = builder.CreateAlloca(variable.getValueType());
      local->setAlignment(variable.getAlign().valueOrOne());
      if (!llvm::isa<llvm::UndefValue>(variable.getInitializer()))
        builder.CreateAlignedStore(variable.getInitializer(), local, local->getAlign());
      return local;
    });
  }
  if (machine == Machine::kPtx) return;
  const auto allocate = module.getOrInsertFunction("msl_threadgroup_variable", builder.getPtrTy(), builder.getPtrTy());
  for (const std::string& name : threadgroup_variables) {
    replace(name, [&](llvm::GlobalVariable& variable) {
      return builder.CreateCall(allocate, {variable_key(module, variable, builder)});
    });
  }
}

}  // namespace metal_marlin::air
