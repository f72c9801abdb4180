#include "spaces.h"

#include <llvm/ADT/SmallVector.h>
#include <llvm/IR/Constants.h>
#include <llvm/IR/InstIterator.h>
#include <llvm/IR/Instructions.h>
#include <llvm/IR/IntrinsicInst.h>
#include <llvm/IR/Module.h>
#include <llvm/Transforms/Utils/Cloning.h>
#include <llvm/Transforms/Utils/ValueMapper.h>

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace metal_marlin::air {
namespace {

using llvm::Type;

class Types final : public llvm::ValueMapTypeRemapper {
 public:
  explicit Types(Machine machine) : machine_(machine) {}

  [[nodiscard]] unsigned space(unsigned air) const { return machine_ == Machine::kHost || air == 2 ? 0 : air; }
  Type* remapType(Type* type) override {
    if (const auto known = known_.find(type); known != known_.end()) return known->second;
    Type* const made = remap(type);
    known_[type] = made;
    return made;
  }

 private:
  Type* remap(Type* type) {
    if (auto* const pointer = llvm::dyn_cast<llvm::PointerType>(type)) {
      return llvm::PointerType::get(type->getContext(), space(pointer->getAddressSpace()));
    }
    if (auto* const array = llvm::dyn_cast<llvm::ArrayType>(type)) {
      return llvm::ArrayType::get(remapType(array->getElementType()), array->getNumElements());
    }
    if (auto* const vector = llvm::dyn_cast<llvm::VectorType>(type)) {
      return llvm::VectorType::get(remapType(vector->getElementType()), vector->getElementCount());
    }
    if (auto* const structure = llvm::dyn_cast<llvm::StructType>(type)) return remap_struct(structure);
    if (auto* const function = llvm::dyn_cast<llvm::FunctionType>(type)) {
      std::vector<Type*> parameters;
      for (Type* const parameter : function->params()) parameters.push_back(remapType(parameter));
      return llvm::FunctionType::get(remapType(function->getReturnType()), parameters, function->isVarArg());
    }
    return type;
  }
  Type* remap_struct(llvm::StructType* structure) {
    if (structure->isOpaque()) return structure;
    std::vector<Type*> elements;
    bool same = true;
    for (Type* const element : structure->elements()) {
      elements.push_back(remapType(element));
      same = same && elements.back() == element;
    }
    return same ? structure : llvm::StructType::get(structure->getContext(), elements, structure->isPacked());
  }

  Machine machine_;
  std::map<Type*, Type*> known_;
};

// A constant that casts to a space that is none on the target is what it casts.
class Constants final : public llvm::ValueMaterializer {
 public:
  Constants(llvm::ValueToValueMapTy& values, Types& types) : values_(values), types_(types) {}
  llvm::Value* materialize(llvm::Value* value) override {
    auto* const expression = llvm::dyn_cast<llvm::ConstantExpr>(value);
    if (expression == nullptr || expression->getOpcode() != llvm::Instruction::AddrSpaceCast) return nullptr;
    llvm::Constant* const operand = expression->getOperand(0);
    if (types_.remapType(operand->getType()) != types_.remapType(expression->getType())) return nullptr;
    return llvm::MapValue(operand, values_, llvm::RF_None, &types_, this);
  }

 private:
  llvm::ValueToValueMapTy& values_;
  Types& types_;
};

// What was a cast between spaces is none within one.
void remove_casts(llvm::Function& function) {
  for (llvm::Instruction& instruction : llvm::make_early_inc_range(llvm::instructions(function))) {
    auto* const cast = llvm::dyn_cast<llvm::AddrSpaceCastInst>(&instruction);
    if (cast == nullptr || cast->getSrcTy() != cast->getDestTy()) continue;
    cast->replaceAllUsesWith(cast->getPointerOperand());
    cast->eraseFromParent();
  }
}

// llvm.memcpy.p3.p1 and the like are named by their pointers' spaces.
void rename_intrinsics(llvm::Module& module) {
  for (llvm::Function& function : llvm::make_early_inc_range(module.functions())) {
    if (!function.isIntrinsic()) continue;
    if (const std::optional<llvm::Function*> renamed = llvm::Intrinsic::remangleIntrinsicFunction(&function)) {
      function.replaceAllUsesWith(*renamed);
      function.eraseFromParent();
    }
  }
}

}  // namespace

std::unique_ptr<llvm::Module> copy_to_spaces_of(llvm::Module& module, Machine machine) {
  auto copy = std::make_unique<llvm::Module>(module.getModuleIdentifier(), module.getContext());
  copy->setSourceFileName(module.getSourceFileName());
  Types types(machine);
  llvm::ValueToValueMapTy values;
  Constants constants(values, types);
  for (const llvm::GlobalVariable& variable : module.globals()) {
    auto* const made = new llvm::GlobalVariable(*copy, types.remapType(variable.getValueType()), variable.isConstant(),
                                                variable.getLinkage(), nullptr, variable.getName(), nullptr,
                                                variable.getThreadLocalMode(), types.space(variable.getAddressSpace()));
    made->setAlignment(variable.getAlign());
    values[&variable] = made;
  }
  for (const llvm::Function& function : module.functions()) {
    auto* const made =
        llvm::Function::Create(llvm::cast<llvm::FunctionType>(types.remapType(function.getFunctionType())),
                               function.getLinkage(), 0, function.getName(), copy.get());
    if (function.isDeclaration()) made->copyAttributesFrom(&function);
    values[&function] = made;
  }
  for (const llvm::GlobalVariable& variable : module.globals()) {
    if (!variable.hasInitializer()) continue;
    llvm::cast<llvm::GlobalVariable>(values[&variable])
        ->setInitializer(llvm::MapValue(variable.getInitializer(), values, llvm::RF_None, &types, &constants));
  }
  for (const llvm::Function& function : module.functions()) {
    if (function.isDeclaration()) continue;
    auto* const made = llvm::cast<llvm::Function>(values[&function]);
    for (unsigned i = 0; i < function.arg_size(); ++i) values[function.getArg(i)] = made->getArg(i);
    llvm::SmallVector<llvm::ReturnInst*, 4> returns;
    llvm::CloneFunctionInto(made, &function, values, llvm::CloneFunctionChangeType::DifferentModule, returns, "",
                            nullptr, &types, &constants);
    remove_casts(*made);
  }
  rename_intrinsics(*copy);
  if (llvm::Metadata* const version = module.getModuleFlag("Debug Info Version")) {
    copy->addModuleFlag(llvm::Module::Warning, "Debug Info Version", version);
  }
  return copy;
}

}  // namespace metal_marlin::air
