#include "intrinsics.h"

#include <fmt/format.h>
#include <llvm/Bitcode/BitcodeReader.h>
#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/Module.h>
#include <llvm/Linker/Linker.h>
#include <llvm/Support/MemoryBuffer.h>
#include <llvm/Support/raw_ostream.h>

#include <regex>
#include <vector>

#include "metal_marlin/error.h"

namespace metal_marlin::air {
namespace {

using llvm::Type;
using llvm::Value;

std::unique_ptr<llvm::Module> load_definitions(llvm::LLVMContext& context, Machine machine, bool instrument) {
  const std::string_view bytes = definitions(machine, instrument);
  auto loaded = llvm::getLazyBitcodeModule(llvm::MemoryBufferRef({bytes.data(), bytes.size()}, "definitions"), context);
  if (!loaded) throw Error(ErrorCode::kInternal, "the definitions of AIR's functions: " + toString(loaded.takeError()));
  return std::move(*loaded);
}

// "air.convert.f.v4f32.f.v4bf16" is "air.convert.f.f32.f.bf16", element by element.
std::string scalar_name(const std::string& name) {
  static const std::regex vector(R"(\.v[0-9]+(?=[a-z]+[0-9]+))");
  return std::regex_replace(name, vector, ".");
}

std::string written(const Type& type) {
  std::string text;
  llvm::raw_string_ostream stream(text);
  type.print(stream);
  return text;
}

class Definer {
 public:
  Definer(llvm::Module& module, const llvm::Module& library, const std::string& kernel)
      : module_(module), library_(library), kernel_(kernel) {}

  void define(llvm::Function& called) {
    const std::string name = called.getName().str();
    if (name.starts_with("air.is_uniform.")) return always_true(called);
    if (name.starts_with("air.dot.")) return dot(called);
    const llvm::Function* const found = library_.getFunction(scalar_name(name));
    if (found == nullptr) unknown(name);
    if (found->getFunctionType() == called.getFunctionType() && found->getName() == name) return;
    called.setName("adapted." + name);
    adapt(called, name, *found);
  }

 private:
  [[noreturn]] void unknown(const std::string& name) const {
    const bool tensors = name.starts_with("__tensorops_impl_") || name.find("_tensor") != std::string::npos;
    throw Error(ErrorCode::kUnsupported,
                fmt::format("kernel {} calls {}, {}", kernel_, name,
                            tensors ? "one of Metal 4's tensor operations, which are not supported"
                                    : "which is not supported"));
  }
  [[noreturn]] void mismatch(const llvm::Function& called, const std::string& name, const llvm::Function& found) const {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("kernel {} calls {} as {}, expected {}", kernel_, name, written(*called.getFunctionType()),
                            written(*found.getFunctionType())));
  }

  // The function gets a body of its own.
  static llvm::IRBuilder<> open(llvm::Function& function) {
    function.setLinkage(llvm::GlobalValue::InternalLinkage);
    return llvm::IRBuilder<>(llvm::BasicBlock::Create(function.getContext(), "", &function));
  }
  // A hint to the compiler that values are the same in all lanes.
  static void always_true(llvm::Function& function) {
    open(function).CreateRet(llvm::ConstantInt::getTrue(function.getContext()));
  }

  static void dot(llvm::Function& function) {
    llvm::IRBuilder<> builder = open(function);
    Value* const x = function.getArg(0);
    Value* const y = function.getArg(1);
    const auto* const type = llvm::cast<llvm::FixedVectorType>(x->getType());
    Value* sum = nullptr;
    for (unsigned i = 0; i < type->getNumElements(); ++i) {
      Value* const a = builder.CreateExtractElement(x, i);
      Value* const b = builder.CreateExtractElement(y, i);
      sum = sum == nullptr ? builder.CreateFMul(a, b)
                           : builder.CreateIntrinsic(llvm::Intrinsic::fma, {a->getType()}, {a, b, sum});
    }
    builder.CreateRet(sum);
  }

  // Calls the definition, for vectors element by element, with pointers of any space.
  void adapt(llvm::Function& called, const std::string& name, const llvm::Function& found) {
    unsigned elements = 0;
    const auto count = [&elements](const Type* type) {
      if (const auto* const vector = llvm::dyn_cast<llvm::FixedVectorType>(type)) elements = vector->getNumElements();
    };
    count(called.getReturnType());
    for (const llvm::Argument& argument : called.args()) count(argument.getType());
    if (called.arg_size() != found.arg_size()) mismatch(called, name, found);
    const llvm::FunctionCallee callee = module_.getOrInsertFunction(found.getName(), found.getFunctionType());
    llvm::IRBuilder<> builder = open(called);
    Value* result =
        elements == 0 || called.getReturnType()->isVoidTy() ? nullptr : llvm::PoisonValue::get(called.getReturnType());
    for (unsigned i = 0; i < std::max(1U, elements); ++i) {
      std::vector<Value*> arguments;
      for (unsigned k = 0; k < called.arg_size(); ++k) {
        Value* argument = called.getArg(k);
        Type* const wanted = found.getFunctionType()->getParamType(k);
        if (argument->getType()->isVectorTy()) argument = builder.CreateExtractElement(argument, i);
        if (argument->getType()->isPointerTy() && wanted->isPointerTy() && argument->getType() != wanted)
          argument = builder.CreateAddrSpaceCast(argument, wanted);
        if (argument->getType() != wanted) mismatch(called, name, found);
        arguments.push_back(argument);
      }
      llvm::CallInst* const made = builder.CreateCall(callee, arguments);
      if (called.isConvergent()) made->setConvergent();
      if (elements == 0) {
        result = made;
      } else if (result != nullptr) {
        if (result->getType()->getScalarType() != made->getType()) mismatch(called, name, found);
        result = builder.CreateInsertElement(result, made, i);
      }
    }
    if (called.getReturnType()->isVoidTy()) {
      builder.CreateRetVoid();
    } else {
      if (result->getType() != called.getReturnType()) mismatch(called, name, found);
      builder.CreateRet(result);
    }
  }

  llvm::Module& module_;
  const llvm::Module& library_;
  const std::string& kernel_;
};

}  // namespace

void define_intrinsics(llvm::Module& module, Machine machine, bool instrument, const std::string& kernel) {
  std::unique_ptr<llvm::Module> library = load_definitions(module.getContext(), machine, instrument);
  std::vector<llvm::Function*> called;
  for (llvm::Function& function : llvm::make_early_inc_range(module.functions())) {
    if (!function.isDeclaration() || function.isIntrinsic()) continue;
    if (function.use_empty()) {
      function.eraseFromParent();
    } else {
      called.push_back(&function);
    }
  }
  Definer definer(module, *library, kernel);
  for (llvm::Function* const function : called) definer.define(*function);
  module.setDataLayout(library->getDataLayout());
  module.setTargetTriple(library->getTargetTriple());
  if (llvm::Linker::linkModules(module, std::move(library), llvm::Linker::LinkOnlyNeeded))
    throw Error(ErrorCode::kInternal, fmt::format("kernel {}: the definitions of AIR's functions do not link", kernel));
}

}  // namespace metal_marlin::air
