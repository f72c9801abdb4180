#include "air_words.h"

#include <fmt/format.h>
#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/InstIterator.h>
#include <llvm/IR/IntrinsicInst.h>
#include <llvm/IR/Module.h>

#include <map>
#include <optional>
#include <set>

#include "metal_marlin/error.h"

namespace metal_marlin::air {
namespace {

using llvm::Type;
using llvm::Value;

constexpr const char* kTriple = "air64_v26-apple-macosx14.0.0";
constexpr const char* kLayout =
    "e-p:64:64:64-i1:8:8-i8:8:8-i16:16:16-i32:32:32-i64:64:64-f32:32:32-f64:64:64-v16:16:16-v24:32:32-v32:32:32-"
    "v48:64:64-v64:64:64-v96:128:128-v128:128:128-v192:256:256-v256:256:256-v512:512:512-v1024:1024:1024-n8:16:32";

// LLVM's functions of floats for which AIR has its own, and those of integers.
const std::map<unsigned, const char*>& float_words() {
  static const std::map<unsigned, const char*> words = {
      {llvm::Intrinsic::fabs, "fabs"},   {llvm::Intrinsic::floor, "floor"},       {llvm::Intrinsic::ceil, "ceil"},
      {llvm::Intrinsic::trunc, "trunc"}, {llvm::Intrinsic::rint, "rint"},         {llvm::Intrinsic::round, "round"},
      {llvm::Intrinsic::sqrt, "sqrt"},   {llvm::Intrinsic::copysign, "copysign"}, {llvm::Intrinsic::fma, "fma"},
      {llvm::Intrinsic::minnum, "fmin"}, {llvm::Intrinsic::maxnum, "fmax"}};
  return words;
}
const std::map<unsigned, const char*>& integer_words() {
  static const std::map<unsigned, const char*> words = {{llvm::Intrinsic::ctpop, "popcount"},
                                                        {llvm::Intrinsic::ctlz, "clz"},
                                                        {llvm::Intrinsic::cttz, "ctz"},
                                                        {llvm::Intrinsic::bitreverse, "reverse_bits"}};
  return words;
}
// Those that Apple's compiler leaves as they are.
bool is_common_word(unsigned intrinsic) {
  static const std::set<unsigned> words = {
      llvm::Intrinsic::fmuladd, llvm::Intrinsic::smax,   llvm::Intrinsic::smin,           llvm::Intrinsic::umax,
      llvm::Intrinsic::umin,    llvm::Intrinsic::fshl,   llvm::Intrinsic::lifetime_start, llvm::Intrinsic::lifetime_end,
      llvm::Intrinsic::memcpy,  llvm::Intrinsic::memset, llvm::Intrinsic::assume};
  return words.contains(intrinsic);
}

class Rewriter {
 public:
  Rewriter(llvm::Module& module, std::string where) : module_(module), where_(std::move(where)) {}

  void rewrite(llvm::Function& function) {
    for (llvm::Instruction& instruction : llvm::make_early_inc_range(llvm::instructions(function))) {
      const Type* const type = instruction.getType()->getScalarType();
      if (type->isDoubleTy() || (type->isIntegerTy() && type->getIntegerBitWidth() > 64))
        unsupported(instruction, "a number of more than 64 bits, or of double precision");
      if (auto* const cast = llvm::dyn_cast<llvm::CastInst>(&instruction)) {
        rewrite_cast(*cast);
      } else if (auto* const call = llvm::dyn_cast<llvm::CallBase>(&instruction)) {
        rewrite_call(*call);
      }
    }
  }

 private:
  [[noreturn]] void unsupported(const llvm::Instruction& at, const std::string& what) const {
    throw Error(ErrorCode::kUnsupported, fmt::format("{}: in {}: {}, for which AIR has no word", where_,
                                                     at.getFunction()->getName().str(), what));
  }

  // "f32", "v4i32".
  std::string name_of(const llvm::Instruction& at, const Type& type) const {
    const Type* const element = type.getScalarType();
    std::string name;
    if (const auto* const vector = llvm::dyn_cast<llvm::FixedVectorType>(&type))
      name = fmt::format("v{}", vector->getNumElements());
    if (element->isFloatTy()) return name + "f32";
    if (element->isHalfTy()) return name + "f16";
    if (element->isBFloatTy()) return name + "bf16";
    if (element->isIntegerTy()) {
      const unsigned bits = element->getIntegerBitWidth();
      if (bits == 1 || bits == 8 || bits == 16 || bits == 32 || bits == 64) return fmt::format("{}i{}", name, bits);
    }
    unsupported(at, "a type that is none of its own");
  }

  void replace(llvm::Instruction& old, const std::string& name, const std::vector<Value*>& arguments) {
    std::vector<Type*> types;
    for (const Value* const argument : arguments) types.push_back(argument->getType());
    llvm::FunctionCallee callee =
        module_.getOrInsertFunction(name, llvm::FunctionType::get(old.getType(), types, false));
    auto* const declared = llvm::cast<llvm::Function>(callee.getCallee());
    declared->setDoesNotAccessMemory();
    declared->setDoesNotThrow();
    declared->setWillReturn();
    llvm::CallInst* const call = llvm::IRBuilder<>(&old).CreateCall(callee, arguments);
    call->setTailCallKind(llvm::CallInst::TCK_Tail);
    old.replaceAllUsesWith(call);
    old.eraseFromParent();
  }

  void rewrite_cast(llvm::CastInst& cast) {
    const auto sign = [&]() -> std::optional<std::pair<char, char>> {
      switch (cast.getOpcode()) {
        case llvm::Instruction::SIToFP: return std::pair('f', 's');
        case llvm::Instruction::UIToFP: return std::pair('f', 'u');
        case llvm::Instruction::FPToSI: return std::pair('s', 'f');
        case llvm::Instruction::FPToUI: return std::pair('u', 'f');
        default: return std::nullopt;
      }
    }();
    if (!sign) return;
    Value* const from = cast.getOperand(0);
    replace(cast,
            fmt::format("air.convert.{}.{}.{}.{}", sign->first, name_of(cast, *cast.getType()), sign->second,
                        name_of(cast, *from->getType())),
            {from});
  }

  void rewrite_call(llvm::CallBase& call) {
    const llvm::Function* const callee = call.getCalledFunction();
    if (callee == nullptr) unsupported(call, "a call of a pointer");
    const std::string name = callee->getName().str();
    if (!callee->isIntrinsic()) {
      if (callee->isDeclaration() && !name.starts_with("air.")) unsupported(call, "a call of " + name);
      return;
    }
    const unsigned intrinsic = callee->getIntrinsicID();
    const std::vector<Value*> arguments(call.arg_begin(), call.arg_end());
    if (const auto word = float_words().find(intrinsic); word != float_words().end()) {
      replace(call, fmt::format("air.{}.{}", word->second, name_of(call, *call.getType())), arguments);
    } else if (const auto of_bits = integer_words().find(intrinsic); of_bits != integer_words().end()) {
      replace(call, fmt::format("air.{}.{}", of_bits->second, name_of(call, *call.getType())), arguments);
    } else if (intrinsic == llvm::Intrinsic::abs) {
      replace(call, "air.abs.s." + name_of(call, *call.getType()), {arguments[0]});
    } else if (intrinsic == llvm::Intrinsic::experimental_noalias_scope_decl ||
               intrinsic == llvm::Intrinsic::invariant_start) {
      call.eraseFromParent();  // a hint
    } else if (intrinsic == llvm::Intrinsic::is_fpclass) {
      rewrite_class_test(call);
    } else if (!is_common_word(intrinsic)) {
      unsupported(call, "a call of " + name);
    }
  }

  // Tests for classes of floats as comparisons: of each run of neighbours among the classes, by value.
  void rewrite_class_test(llvm::CallBase& call) {
    constexpr unsigned kClasses[] = {llvm::fcNegInf,       llvm::fcNegNormal, llvm::fcNegSubnormal, llvm::fcZero,
                                     llvm::fcPosSubnormal, llvm::fcPosNormal, llvm::fcPosInf};
    constexpr unsigned kCount = std::size(kClasses);
    llvm::IRBuilder<> builder(&call);
    Value* const x = call.getArgOperand(0);
    const auto mask = static_cast<unsigned>(llvm::cast<llvm::ConstantInt>(call.getArgOperand(1))->getZExtValue());
    const unsigned zero = mask & llvm::fcZero, nan = mask & llvm::fcNan;
    if ((zero != 0 && zero != llvm::fcZero) || (nan != 0 && nan != llvm::fcNan))
      unsupported(call, fmt::format("a test for the classes {:#x} of floats", mask));
    Value* answer = nan != 0 ? builder.CreateFCmpUNO(x, x) : builder.getFalse();
    for (unsigned first = 0; first < kCount; ++first) {
      if ((mask & kClasses[first]) == 0) continue;
      unsigned last = first;
      while (last + 1 < kCount && (mask & kClasses[last + 1]) != 0) ++last;
      answer = builder.CreateOr(answer, between(builder, x, first, last));
      first = last;
    }
    call.replaceAllUsesWith(answer);
    call.eraseFromParent();
  }

  // Whether x lies in the classes `first` to `last` of those above.
  static Value* between(llvm::IRBuilder<>& builder, Value* x, unsigned first, unsigned last) {
    using llvm::CmpInst;
    struct Bound {
      double value;  // 1 stands for the least normal number, 2 for infinity
      CmpInst::Predicate predicate;
    };
    constexpr Bound kFrom[] = {{-2, CmpInst::FCMP_OGE}, {-2, CmpInst::FCMP_OGT}, {-1, CmpInst::FCMP_OGT},
                               {0, CmpInst::FCMP_OGE},  {0, CmpInst::FCMP_OGT},  {1, CmpInst::FCMP_OGE},
                               {2, CmpInst::FCMP_OGE}};
    constexpr Bound kTo[] = {{-2, CmpInst::FCMP_OLE}, {-1, CmpInst::FCMP_OLE}, {0, CmpInst::FCMP_OLT},
                             {0, CmpInst::FCMP_OLE},  {1, CmpInst::FCMP_OLT},  {2, CmpInst::FCMP_OLT},
                             {2, CmpInst::FCMP_OLE}};
    const auto compare = [&](const Bound& bound) {
      llvm::Type* const type = x->getType();
      const llvm::fltSemantics& semantics = type->getScalarType()->getFltSemantics();
      const bool negative = bound.value < 0;
      const llvm::APFloat number = bound.value == 0 ? llvm::APFloat::getZero(semantics)
                                   : bound.value * bound.value == 1
                                       ? llvm::APFloat::getSmallestNormalized(semantics, negative)
                                       : llvm::APFloat::getInf(semantics, negative);
      return builder.CreateFCmp(bound.predicate, x, llvm::ConstantFP::get(type, number));
    };
    return builder.CreateAnd(compare(kFrom[first]), compare(kTo[last]));
  }

  llvm::Module& module_;
  std::string where_;
};

void use_apples_attributes(llvm::Function& function) {
  llvm::LLVMContext& context = function.getContext();
  const bool convergent = function.isConvergent();
  llvm::AttrBuilder attributes(context);
  if (convergent) attributes.addAttribute(llvm::Attribute::Convergent);
  attributes.addAttribute(llvm::Attribute::NoUnwind);
  if (function.isDeclaration()) {
    attributes.addAttribute(llvm::Attribute::WillReturn);
    if (function.doesNotAccessMemory()) attributes.addMemoryAttr(llvm::MemoryEffects::none());
  } else {
    attributes.addAttribute(llvm::Attribute::MustProgress);
    attributes.addAttribute("frame-pointer", "all");
    attributes.addAttribute("no-builtins");
    attributes.addAttribute("no-trapping-math", "true");
  }
  function.setAttributes(function.getAttributes().removeFnAttributes(context).addFnAttributes(context, attributes));
  function.setDSOLocal(false);
}

void use_apples_variables(llvm::Module& module) {
  for (llvm::GlobalVariable& variable : module.globals()) {
    variable.setDSOLocal(false);
    if (variable.getAddressSpace() == 3 && variable.hasInitializer())
      variable.setInitializer(llvm::UndefValue::get(variable.getValueType()));
    if (variable.getName().contains(".MTL_FC_INIT_")) {
      variable.setInitializer(llvm::UndefValue::get(variable.getValueType()));
      variable.setExternallyInitialized(true);
      variable.setConstant(true);
      variable.setSection("air.fc_initializer");
    }
  }
}

}  // namespace

void use_air_words(llvm::Module& module, const std::string& where) {
  Rewriter rewriter(module, where);
  for (llvm::Function& function : llvm::make_early_inc_range(module.functions())) rewriter.rewrite(function);
  for (llvm::Function& function : module.functions()) {
    if (!function.isIntrinsic()) use_apples_attributes(function);
    for (llvm::Instruction& instruction : llvm::instructions(function)) {
      auto* const call = llvm::dyn_cast<llvm::CallInst>(&instruction);
      if (call == nullptr || llvm::isa<llvm::IntrinsicInst>(call)) continue;
      const bool convergent = call->isConvergent() || call->getCalledFunction()->isConvergent();
      call->setAttributes({});
      if (convergent) call->setConvergent();
    }
  }
  use_apples_variables(module);
  module.setTargetTriple(kTriple);
  module.setDataLayout(kLayout);
}

}  // namespace metal_marlin::air
