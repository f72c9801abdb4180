#include "bfloat.h"

#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/InstIterator.h>
#include <llvm/IR/IntrinsicInst.h>
#include <llvm/IR/Module.h>

#include <vector>

namespace metal_marlin::air {
namespace {

using llvm::Type;
using llvm::Value;

bool is_bfloat(const Type* type) {
  return type->getScalarType()->isBFloatTy();
}

// Whether it computes with bfloat, and is not only a copy.
bool computes(const llvm::Instruction& instruction) {
  const bool from = instruction.getNumOperands() > 0 && is_bfloat(instruction.getOperand(0)->getType());
  if (instruction.isBinaryOp() || llvm::isa<llvm::FCmpInst>(instruction)) return from;
  if (const auto* const cast = llvm::dyn_cast<llvm::CastInst>(&instruction)) {
    const bool plain = llvm::isa<llvm::BitCastInst>(cast) || llvm::isa<llvm::FPExtInst>(cast);
    return !plain && (from || is_bfloat(cast->getType()));
  }
  const auto* const intrinsic = llvm::dyn_cast<llvm::IntrinsicInst>(&instruction);
  return intrinsic != nullptr && is_bfloat(intrinsic->getType()) && from;
}

class Widener {
 public:
  explicit Widener(llvm::Function& function) : module_(*function.getParent()), builder_(function.getContext()) {}

  void widen(llvm::Instruction& old) {
    builder_.SetInsertPoint(&old);
    Value* made = nullptr;
    if (old.isBinaryOp()) {
      made = builder_.CreateBinOp(static_cast<llvm::Instruction::BinaryOps>(old.getOpcode()), wide(old.getOperand(0)),
                                  wide(old.getOperand(1)));
    } else if (const auto* const compare = llvm::dyn_cast<llvm::FCmpInst>(&old)) {
      made = builder_.CreateFCmp(compare->getPredicate(), wide(old.getOperand(0)), wide(old.getOperand(1)));
    } else if (const auto* const cast = llvm::dyn_cast<llvm::CastInst>(&old)) {
      Type* const type = is_bfloat(old.getType()) ? wide_type(old.getType()) : old.getType();
      Value* const operand = wide(old.getOperand(0));
      made = operand->getType() == type ? operand : builder_.CreateCast(cast->getOpcode(), operand, type);
    } else {
      std::vector<Value*> arguments;
      for (Value* const argument : llvm::cast<llvm::CallInst>(old).args()) arguments.push_back(wide(argument));
      made = builder_.CreateIntrinsic(llvm::cast<llvm::IntrinsicInst>(old).getIntrinsicID(), {wide_type(old.getType())},
                                      arguments);
    }
    old.replaceAllUsesWith(is_bfloat(old.getType()) ? narrow(made, old.getType()) : made);
    old.eraseFromParent();
  }

 private:
  Type* wide_type(Type* type) {
    Type* const element = builder_.getFloatTy();
    const auto* const vector = llvm::dyn_cast<llvm::VectorType>(type);
    return vector == nullptr ? element : llvm::VectorType::get(element, vector->getElementCount());
  }
  Value* wide(Value* value) {
    return is_bfloat(value->getType()) ? builder_.CreateFPExt(value, wide_type(value->getType())) : value;
  }
  Value* narrow(Value* value, Type* type) {
    const llvm::FunctionCallee truncate =
        module_.getOrInsertFunction("msl.truncate.bf16", builder_.getBFloatTy(), builder_.getFloatTy());
    const auto* const vector = llvm::dyn_cast<llvm::FixedVectorType>(type);
    if (vector == nullptr) return builder_.CreateCall(truncate, {value});
    Value* out = llvm::PoisonValue::get(type);
    for (unsigned i = 0; i < vector->getNumElements(); ++i) {
      out = builder_.CreateInsertElement(out, builder_.CreateCall(truncate, {builder_.CreateExtractElement(value, i)}),
                                         i);
    }
    return out;
  }

  llvm::Module& module_;
  llvm::IRBuilder<> builder_;
};

}  // namespace

void widen_bfloat(llvm::Function& function) {
  std::vector<llvm::Instruction*> found;
  for (llvm::Instruction& instruction : llvm::instructions(function)) {
    if (computes(instruction)) found.push_back(&instruction);
  }
  Widener widener(function);
  for (llvm::Instruction* const instruction : found) widener.widen(*instruction);
}

}  // namespace metal_marlin::air
