#include "matrices.h"

#include <fmt/format.h>
#include <llvm/ADT/PostOrderIterator.h>
#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/InstIterator.h>
#include <llvm/IR/IntrinsicInst.h>
#include <llvm/IR/Module.h>
#include <llvm/Support/raw_ostream.h>

#include <algorithm>
#include <array>
#include <map>
#include <vector>

#include "metal_marlin/error.h"

namespace metal_marlin::air {
namespace {

using llvm::Type;
using llvm::Value;

constexpr unsigned kElements = 64;
constexpr llvm::StringRef kPrefix = "air.simdgroup_matrix_8x8_";

// How many of a matrix's elements a lane has: 2 of 64, or 1 of 32 where optimisations take two
// neighbours for an integer; 0 for what is no matrix.
unsigned own_elements(const Type* type) {
  const auto* const vector = llvm::dyn_cast<llvm::FixedVectorType>(type);
  if (vector == nullptr) return 0;
  const unsigned bits = vector->getElementType()->getScalarSizeInBits();
  if (vector->getNumElements() == kElements) return 2;
  const bool words = vector->getElementType()->isIntegerTy() && (bits == 32 || bits == 64);
  return words && vector->getNumElements() == kElements / 2 ? 1 : 0;
}
bool is_matrix(const Type* type) {
  return own_elements(type) > 0;
}

bool touches_matrix(const llvm::Instruction& instruction) {
  return is_matrix(instruction.getType()) || std::any_of(instruction.op_begin(), instruction.op_end(),
                                                         [](const Value* v) { return is_matrix(v->getType()); });
}

// AIR's name of an element type.
std::string element_name(const Type* type) {
  return type->isHalfTy() ? "f16" : type->isBFloatTy() ? "bf16" : type->isFloatTy() ? "f32" : "?";
}

class Narrower {
 public:
  Narrower(llvm::Function& function, const std::string& kernel)
      : function_(function), kernel_(kernel), builder_(function.getContext()) {}

  void run() {
    std::vector<llvm::Instruction*> old;
    const llvm::ReversePostOrderTraversal<llvm::Function*> order(&function_);
    for (llvm::BasicBlock* const block : order) {
      for (llvm::Instruction& instruction : *block) {
        if (touches_matrix(instruction)) old.push_back(&instruction);
      }
    }
    for (llvm::Instruction* const instruction : old) {
      if (llvm::isa<llvm::PHINode>(instruction)) {
        builder_.SetInsertPoint(instruction);
        narrow_[instruction] = builder_.CreatePHI(pair(instruction->getType()), 0);
      }
    }
    for (llvm::Instruction* const instruction : old) {
      if (!llvm::isa<llvm::PHINode>(instruction)) rewrite(*instruction);
    }
    for (llvm::Instruction* const instruction : old) {
      if (const auto* const phi = llvm::dyn_cast<llvm::PHINode>(instruction)) complete(*phi);
    }
    for (llvm::Instruction* const instruction : old) {
      instruction->replaceAllUsesWith(llvm::PoisonValue::get(instruction->getType()));
      instruction->eraseFromParent();
    }
  }

 private:
  [[noreturn]] void unsupported(const Value& value) const {
    std::string text;
    llvm::raw_string_ostream stream(text);
    value.print(stream);
    throw Error(ErrorCode::kUnsupported,
                fmt::format("kernel {}: a simdgroup matrix is used as in '{}', which is not supported", kernel_,
                            llvm::StringRef(text).trim().substr(0, 120).str()));
  }

  static llvm::FixedVectorType* pair(const Type* type) {
    return llvm::FixedVectorType::get(type->getScalarType(), own_elements(type));
  }

  // The two elements of a matrix; anything else as it is.
  Value* narrowed(Value* value) {
    if (!is_matrix(value->getType())) return value;
    if (const auto found = narrow_.find(value); found != narrow_.end()) return found->second;
    if (auto* const constant = llvm::dyn_cast<llvm::Constant>(value)) {
      std::vector<llvm::Constant*> own;
      for (unsigned i = 0; i < own_elements(value->getType()); ++i) own.push_back(constant->getAggregateElement(i));
      return llvm::ConstantVector::get(own);
    }
    if (auto* const instruction = llvm::dyn_cast<llvm::Instruction>(value);
        instruction != nullptr && llvm::pred_empty(instruction->getParent())) {
      return llvm::PoisonValue::get(pair(value->getType()));  // in a block that nobody reaches
    }
    unsupported(*value);
  }

  Value* element(Value* vector, unsigned i) {
    if (is_matrix(vector->getType()) && i >= own_elements(vector->getType()))
      return llvm::PoisonValue::get(vector->getType()->getScalarType());
    return builder_.CreateExtractElement(narrowed(vector), i);
  }

  void complete(const llvm::PHINode& old) {
    auto* const phi = llvm::cast<llvm::PHINode>(narrow_.at(&old));
    for (unsigned i = 0; i < old.getNumIncomingValues(); ++i)
      phi->addIncoming(narrowed(old.getIncomingValue(i)), old.getIncomingBlock(i));
  }

  // Puts the new value in the old one's place.
  void replace(llvm::Instruction& old, Value* value) {
    if (is_matrix(old.getType())) {
      narrow_[&old] = value;
    } else if (!old.getType()->isVoidTy()) {
      old.replaceAllUsesWith(value);
    }
  }

  void rewrite(llvm::Instruction& old) {
    builder_.SetInsertPoint(&old);
    if (auto* const load = llvm::dyn_cast<llvm::LoadInst>(&old)) {
      replace(old, builder_.CreateAlignedLoad(pair(old.getType()), load->getPointerOperand(), load->getAlign(),
                                              load->isVolatile()));
    } else if (auto* const store = llvm::dyn_cast<llvm::StoreInst>(&old)) {
      builder_.CreateAlignedStore(narrowed(store->getValueOperand()), store->getPointerOperand(), store->getAlign(),
                                  store->isVolatile());
    } else if (auto* const insert = llvm::dyn_cast<llvm::InsertElementInst>(&old)) {
      const auto* const index = llvm::dyn_cast<llvm::ConstantInt>(insert->getOperand(2));
      Value* const vector = narrowed(insert->getOperand(0));
      const bool outside = index != nullptr && index->getZExtValue() >= own_elements(old.getType());
      replace(old,
              outside ? vector : builder_.CreateInsertElement(vector, insert->getOperand(1), insert->getOperand(2)));
    } else if (auto* const extract = llvm::dyn_cast<llvm::ExtractElementInst>(&old)) {
      const auto* const index = llvm::dyn_cast<llvm::ConstantInt>(extract->getIndexOperand());
      replace(old,
              index != nullptr
                  ? element(extract->getVectorOperand(), static_cast<unsigned>(index->getLimitedValue(kElements)))
                  : builder_.CreateExtractElement(narrowed(extract->getVectorOperand()), extract->getIndexOperand()));
    } else if (auto* const shuffle = llvm::dyn_cast<llvm::ShuffleVectorInst>(&old)) {
      rewrite_shuffle(*shuffle);
    } else if (auto* const call = llvm::dyn_cast<llvm::CallInst>(&old)) {
      rewrite_call(*call);
    } else if (llvm::isa<llvm::BitCastInst>(old) && is_matrix(old.getType()) &&
               is_matrix(old.getOperand(0)->getType())) {
      replace(old, builder_.CreateBitCast(narrowed(old.getOperand(0)), pair(old.getType())));
    } else if (old.isBinaryOp() || old.isUnaryOp() || llvm::isa<llvm::FreezeInst>(old) ||
               llvm::isa<llvm::FPExtInst>(old) || llvm::isa<llvm::FPTruncInst>(old) ||
               (llvm::isa<llvm::SelectInst>(old) && !is_matrix(old.getOperand(0)->getType()))) {
      llvm::Instruction* const made = old.clone();
      for (llvm::Use& operand : made->operands()) operand.set(narrowed(operand.get()));
      made->mutateType(pair(old.getType()));
      builder_.Insert(made);
      replace(old, made);
    } else {
      unsupported(old);
    }
  }

  void rewrite_shuffle(llvm::ShuffleVectorInst& old) {
    const auto sources = llvm::cast<llvm::FixedVectorType>(old.getOperand(0)->getType())->getNumElements();
    auto* const type =
        is_matrix(old.getType()) ? pair(old.getType()) : llvm::cast<llvm::FixedVectorType>(old.getType());
    Value* made = llvm::PoisonValue::get(type);
    for (unsigned i = 0; i < type->getNumElements(); ++i) {
      const int from = old.getMaskValue(i);
      if (from < 0) continue;
      const auto at = static_cast<unsigned>(from);
      Value* const value = at < sources ? element(old.getOperand(0), at) : element(old.getOperand(1), at - sources);
      made = builder_.CreateInsertElement(made, value, i);
    }
    replace(old, made);
  }

  void rewrite_call(llvm::CallInst& old) {
    const llvm::Function* const callee = old.getCalledFunction();
    if (callee == nullptr) unsupported(old);
    if (callee->isIntrinsic()) {
      std::vector<Value*> arguments;
      for (Value* const argument : old.args()) arguments.push_back(narrowed(argument));
      if (!is_matrix(old.getType()) || arguments.empty() || arguments[0]->getType() != pair(old.getType()))
        unsupported(old);
      replace(old, builder_.CreateIntrinsic(callee->getIntrinsicID(), {pair(old.getType())}, arguments));
      return;
    }
    llvm::StringRef name = callee->getName();
    if (!name.consume_front(kPrefix)) unsupported(old);
    name = name.split('.').first;
    if (name == "init_filled" && old.arg_size() == 1) {
      replace(old, builder_.CreateVectorSplat(2, old.getArgOperand(0)));
    } else if (name == "init_diag" && old.arg_size() == 1) {
      replace(old, call_with_result(old, "diagonal." + element_name(old.getType()->getScalarType()),
                                    {old.getArgOperand(0)}));
    } else if (name == "multiply_accumulate" && old.arg_size() == 3) {
      multiply(old);
    } else if (name == "load") {
      const Memory memory = memory_of(old, 0);
      replace(old, call_with_result(old, "load." + element_name(old.getType()->getScalarType()),
                                    {memory.pointer, memory.column_step, memory.row_step}));
    } else if (name == "store" && is_matrix(old.getArgOperand(0)->getType())) {
      const Memory memory = memory_of(old, 1);
      Value* const value = old.getArgOperand(0);
      call("store." + element_name(value->getType()->getScalarType()),
           {element(value, 0), element(value, 1), memory.pointer, memory.column_step, memory.row_step});
    } else {
      unsupported(old);
    }
  }

  void multiply(llvm::CallInst& old) {
    std::string name = "multiply_accumulate." + element_name(old.getType()->getScalarType());
    std::vector<Value*> elements;
    for (Value* const argument : old.args()) {
      name += fmt::format(".{}", element_name(argument->getType()->getScalarType()));
      for (unsigned i = 0; i < 2; ++i) elements.push_back(element(argument, i));
    }
    replace(old, call_with_result(old, name, elements));
  }

  struct Memory {
    Value* pointer;
    Value* column_step;
    Value* row_step;
  };
  // Before AIR 2.8 (pointer, elements of a row, origin, transposed), since then (pointer, extents,
  // steps, origin); columns first.
  Memory memory_of(llvm::CallInst& call, unsigned first) {
    if (call.arg_size() != first + 4) unsupported(call);
    Value* const one = builder_.getInt64(1);
    Value* const second = call.getArgOperand(first + 1);
    Value* const third = call.getArgOperand(first + 2);
    Value* const fourth = call.getArgOperand(first + 3);
    Memory memory{};
    Value* origin = nullptr;
    std::array<Value*, 2> offset_step{};
    if (second->getType()->isIntegerTy(64) && fourth->getType()->isIntegerTy(1)) {
      memory.column_step = builder_.CreateSelect(fourth, second, one);
      memory.row_step = builder_.CreateSelect(fourth, one, second);
      origin = third;
      offset_step[0] = one;
      offset_step[1] = second;
    } else if (third->getType()->isVectorTy() && fourth->getType()->isVectorTy()) {
      memory.column_step = offset_step[0] = builder_.CreateExtractElement(third, std::uint64_t{0});
      memory.row_step = offset_step[1] = builder_.CreateExtractElement(third, std::uint64_t{1});
      origin = fourth;
    } else {
      unsupported(call);
    }
    Value* offset = builder_.getInt64(0);
    for (unsigned i = 0; i < 2; ++i) {
      Value* const part = builder_.CreateMul(builder_.CreateExtractElement(origin, i), offset_step[i]);
      offset = builder_.CreateAdd(offset, part);
    }
    const Type* const matrix = first == 0 ? call.getType() : call.getArgOperand(0)->getType();
    Value* const pointer = builder_.CreateGEP(matrix->getScalarType(), call.getArgOperand(first), offset);
    memory.pointer = builder_.CreateAddrSpaceCast(pointer, builder_.getPtrTy());
    return memory;
  }

  void call(const std::string& name, llvm::ArrayRef<Value*> arguments) {
    std::vector<Type*> types;
    for (const Value* const argument : arguments) types.push_back(argument->getType());
    const auto callee = function_.getParent()->getOrInsertFunction(
        "msl.matrix." + name, llvm::FunctionType::get(builder_.getVoidTy(), types, false));
    builder_.CreateCall(callee, arguments)->setConvergent();
  }

  // The definitions give a lane's elements by memory.
  Value* call_with_result(const llvm::CallInst& old, const std::string& name, std::vector<Value*> arguments) {
    llvm::IRBuilder<> entry(&*function_.getEntryBlock().getFirstInsertionPt());
    Value* const result = entry.CreateAlloca(pair(old.getType()));
    arguments.insert(arguments.begin(), result);
    call(name, arguments);
    return builder_.CreateLoad(pair(old.getType()), result);
  }

  llvm::Function& function_;
  const std::string& kernel_;
  llvm::IRBuilder<> builder_;
  std::map<const Value*, Value*> narrow_;
};

}  // namespace

void narrow_matrices(llvm::Function& function, const std::string& kernel) {
  for (const llvm::Argument& argument : function.args()) {
    if (is_matrix(argument.getType()))
      throw Error(ErrorCode::kUnsupported, fmt::format("kernel {}: a matrix as an argument", kernel));
  }
  Narrower(function, kernel).run();
}

}  // namespace metal_marlin::air
