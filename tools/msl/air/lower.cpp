#include "lower.h"

#include <fmt/format.h>
#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/InstIterator.h>
#include <llvm/IR/IntrinsicInst.h>
#include <llvm/IR/Operator.h>
#include <llvm/Linker/Linker.h>
#include <llvm/Transforms/Utils/Local.h>

#include "bfloat.h"
#include "description.h"
#include "entry.h"
#include "initialisers.h"
#include "intrinsics.h"
#include "matrices.h"
#include "metal_marlin/error.h"
#include "msl_abi.h"
#include "tables.h"

namespace metal_marlin::air {
namespace {

struct Parsed {
  std::unique_ptr<llvm::Module> module;
  Kernel kernel;
};

// A multiply-add may be one or two roundings. Here it is what clang makes of it for the machine: one, but two
// for the host's half and bfloat.
llvm::Value* multiply_add(llvm::IntrinsicInst& call, Machine machine) {
  llvm::IRBuilder<> builder(&call);
  llvm::Value* const a = call.getArgOperand(0);
  llvm::Value* const b = call.getArgOperand(1);
  llvm::Value* const c = call.getArgOperand(2);
  const bool twice = machine == Machine::kHost && call.getType()->getScalarSizeInBits() == 16;
  return twice ? builder.CreateFAdd(builder.CreateFMul(a, b), c)
               : builder.CreateIntrinsic(llvm::Intrinsic::fma, {call.getType()}, {a, b, c});
}

// Nothing is assumed of values that Apple's fast math would assume.
void make_exact(llvm::Function& function, Machine machine) {
  for (llvm::Instruction& instruction : llvm::make_early_inc_range(llvm::instructions(function))) {
    if (llvm::isa<llvm::FPMathOperator>(instruction)) instruction.copyFastMathFlags(llvm::FastMathFlags());
    auto* const call = llvm::dyn_cast<llvm::IntrinsicInst>(&instruction);
    if (call == nullptr || call->getIntrinsicID() != llvm::Intrinsic::fmuladd) continue;
    call->replaceAllUsesWith(multiply_add(*call, machine));
    call->eraseFromParent();
  }
}

// What Apple's compiler says for its own back end; and that buffers are never the same, which a host may
// not keep to.
void forget_hints(llvm::Module& module) {
  for (llvm::Function& function : module.functions()) {
    if (function.isIntrinsic()) continue;
    const bool convergent = function.isConvergent();
    function.setAttributes({});
    if (convergent) function.setConvergent();
    function.setDoesNotThrow();
    for (llvm::Instruction& instruction : llvm::instructions(function)) {
      instruction.setMetadata(llvm::LLVMContext::MD_alias_scope, nullptr);
      instruction.setMetadata(llvm::LLVMContext::MD_noalias, nullptr);
      auto* const call = llvm::dyn_cast<llvm::CallInst>(&instruction);
      if (call == nullptr || llvm::isa<llvm::IntrinsicInst>(call)) continue;
      const bool together = call->isConvergent();
      call->setAttributes({});
      if (together) call->setConvergent();
    }
  }
}

// Other kernels of the module, and what they alone call.
void remove_others(llvm::Module& module, const llvm::Function& kernel) {
  for (bool found = true; found;) {
    found = false;
    for (llvm::Function& function : llvm::make_early_inc_range(module.functions())) {
      if (&function == &kernel || function.isDeclaration() || !function.use_empty()) continue;
      function.eraseFromParent();
      found = true;
    }
  }
}

std::vector<std::string> variables(llvm::Module& module, unsigned space) {
  std::vector<std::string> names;
  for (llvm::GlobalVariable& variable : module.globals()) {
    if (variable.getAddressSpace() != space || variable.isConstant() || variable.isDeclaration()) continue;
    if (!variable.hasName()) variable.setName("variable");
    names.push_back(variable.getName().str());
  }
  return names;
}

std::unique_ptr<llvm::Module> lower_kernel(Parsed& parsed, const ConstantPlaces& places, const std::string& entry,
                                           const LowerOptions& options) {
  llvm::Module& source = *parsed.module;
  const Kernel& kernel = parsed.kernel;
  const std::string name = kernel.name;
  remove_others(source, *kernel.function);
  refuse_foreign_code(source, name);
  forget_hints(source);
  for (llvm::Function& function : source.functions()) {
    if (function.isDeclaration()) continue;
    llvm::removeUnreachableBlocks(function);
    make_exact(function, options.machine);
    narrow_matrices(function, name);
    widen_bfloat(function);
  }
  const std::vector<std::string> threadgroup_variables = variables(source, 3);
  const std::vector<std::string> own = variables(source, 2);
  std::unique_ptr<llvm::Module> module = copy_to_spaces_of(source, options.machine);
  bind_constants(*module, options.machine, kernel, places);
  build_entry(*module, options.machine, kernel, entry);
  define_intrinsics(*module, options.machine, options.instrument, name);
  inline_all(*module, entry, name);
  localise_variables(*module, options.machine, entry, threadgroup_variables, own);
  return module;
}

// Every kernel's, each index once.
std::vector<FunctionConstant> all_constants(const std::vector<Parsed>& kernels) {
  std::map<std::uint32_t, std::pair<FunctionConstant, const Kernel*>> by_index;
  for (const Parsed& parsed : kernels) {
    for (const FunctionConstant& constant : parsed.kernel.constants) {
      const auto [known, is_new] = by_index.try_emplace(constant.index, constant, &parsed.kernel);
      const FunctionConstant& other = known->second.first;
      if (!is_new && (other.size != constant.size || other.type != constant.type)) {
        throw Error(ErrorCode::kUnsupported,
                    fmt::format("function constant {} is {} {} in kernel {}, {} {} in kernel {}: lower them one by one",
                                constant.index, other.type, other.name, known->second.second->name, constant.type,
                                constant.name, parsed.kernel.name));
      }
    }
  }
  std::vector<FunctionConstant> constants;
  for (const auto& [index, constant] : by_index) constants.push_back(constant.first);
  return constants;
}

}  // namespace

std::unique_ptr<llvm::Module> lower(llvm::LLVMContext& context, const std::vector<KernelSource>& sources,
                                    const LowerOptions& options) {
  std::vector<Parsed> parsed;
  for (const KernelSource& source : sources) {
    Parsed& p = parsed.emplace_back();
    p.module = parse_module(context, source);
    p.kernel = describe(*p.module, source.name);
  }
  const std::vector<FunctionConstant> constants = all_constants(parsed);
  if (constants.size() > kMslMaxConstants) {
    throw Error(ErrorCode::kUnsupported, fmt::format("{} function constants, at most {} are supported",
                                                     constants.size(), static_cast<int>(kMslMaxConstants)));
  }
  ConstantPlaces places;
  for (std::uint32_t i = 0; i < constants.size(); ++i) places[constants[i].index] = i;

  std::unique_ptr<llvm::Module> whole;
  std::vector<Kernel> kernels;
  for (std::size_t i = 0; i < parsed.size(); ++i) {
    std::unique_ptr<llvm::Module> module = lower_kernel(parsed[i], places, fmt::format("msl_entry_{}", i), options);
    kernels.push_back(std::move(parsed[i].kernel));
    parsed[i].module.reset();
    if (whole == nullptr) {
      whole = std::move(module);
    } else if (llvm::Linker::linkModules(*whole, std::move(module))) {
      throw Error(ErrorCode::kInternal,
                  fmt::format("kernel {} cannot be linked to those before it", kernels.back().name));
    }
  }
  if (whole == nullptr) throw Error(ErrorCode::kNotFound, "the file has no kernels");
  build_tables(*whole, kernels, constants, options);
  return whole;
}

}  // namespace metal_marlin::air
