#include "tables.h"

#include <fmt/format.h>
#include <llvm/IR/IRBuilder.h>
#include <llvm/Transforms/Utils/ModuleUtils.h>

#include <algorithm>

#include "entry.h"
#include "msl_abi.h"

namespace metal_marlin::air {
namespace {

class Tables {
 public:
  explicit Tables(llvm::Module& module) : module_(module), builder_(module.getContext()) {}

  llvm::GlobalVariable* values(Machine machine) {
    auto* const type = llvm::ArrayType::get(builder_.getInt8Ty(), sizeof(MslConstantValues));
    llvm::GlobalVariable* values = module_.getNamedGlobal(kConstantValues);
    if (values == nullptr) {
      values =
          new llvm::GlobalVariable(module_, type, false, llvm::GlobalValue::ExternalLinkage, nullptr, kConstantValues,
                                   nullptr, llvm::GlobalValue::NotThreadLocal, machine == Machine::kPtx ? 1 : 0);
      values->setAlignment(llvm::Align(16));
    }
    values->setInitializer(llvm::ConstantAggregateZero::get(type));
    if (machine == Machine::kHost) values->setLinkage(llvm::GlobalValue::InternalLinkage);
    return values;
  }

  llvm::Constant* kernel(const Kernel& kernel, std::size_t number, const std::vector<FunctionConstant>& constants) {
    std::vector<llvm::Constant*> arguments;
    for (const Argument& argument : kernel.arguments) arguments.push_back(describe(argument));
    std::vector<llvm::Constant*> used;
    for (const FunctionConstant& constant : constants) {
      used.push_back(byte(std::any_of(kernel.constants.begin(), kernel.constants.end(),
                                      [&](const FunctionConstant& own) { return own.index == constant.index; })));
    }
    return record({text(kernel.name), module_.getFunction(fmt::format("msl_entry_{}", number)), list(arguments),
                   word(kernel.arguments.size()), word(kernel.max_threads), list(used)});
  }

  llvm::Constant* constant(const FunctionConstant& constant) {
    return record({text(constant.name), text(constant.type), word(constant.index), word(constant.size)});
  }

  llvm::Constant* list(const std::vector<llvm::Constant*>& entries) {
    if (entries.empty()) return llvm::ConstantPointerNull::get(builder_.getPtrTy());
    auto* const array = llvm::ConstantArray::get(llvm::ArrayType::get(entries[0]->getType(), entries.size()), entries);
    return new llvm::GlobalVariable(module_, array->getType(), true, llvm::GlobalValue::InternalLinkage, array,
                                    "msl_table");
  }
  static llvm::Constant* record(llvm::ArrayRef<llvm::Constant*> fields) {
    return llvm::ConstantStruct::getAnon(fields);
  }
  llvm::Constant* word(std::size_t value) { return builder_.getInt32(static_cast<std::uint32_t>(value)); }

 private:
  llvm::Constant* text(const std::string& content) {
    auto* const array = llvm::ConstantDataArray::getString(module_.getContext(), content);
    return new llvm::GlobalVariable(module_, array->getType(), true, llvm::GlobalValue::PrivateLinkage, array,
                                    "msl_text");
  }
  llvm::Constant* byte(unsigned value) { return builder_.getInt8(static_cast<std::uint8_t>(value)); }

  llvm::Constant* describe(const Argument& a) {
    const unsigned kind = a.kind == ArgumentKind::kBuffer        ? kMslBuffer
                          : a.kind == ArgumentKind::kThreadgroup ? kMslThreadgroup
                                                                 : kMslBuiltin;
    return record({text(a.name), text(a.type), byte(kind), byte(a.read_only), byte(a.by_value), byte(a.optional),
                   word(a.index), word(a.size), word(a.alignment)});
  }

  llvm::Module& module_;
  llvm::IRBuilder<> builder_;
};

}  // namespace

void build_tables(llvm::Module& module, const std::vector<Kernel>& kernels,
                  const std::vector<FunctionConstant>& constants, const LowerOptions& options) {
  Tables tables(module);
  llvm::GlobalVariable* const values = tables.values(options.machine);
  if (options.machine == Machine::kPtx) {
    llvm::appendToUsed(module, {values});
    return;
  }
  std::vector<llvm::Constant*> kernel_records;
  std::vector<llvm::Constant*> constant_records;
  for (std::size_t i = 0; i < kernels.size(); ++i) kernel_records.push_back(tables.kernel(kernels[i], i, constants));
  for (const FunctionConstant& constant : constants) constant_records.push_back(tables.constant(constant));
  llvm::Constant* const library = Tables::record(
      {tables.word(kMslAbiVersion), tables.word(options.instrument ? 1 : 0), tables.list(kernel_records),
       tables.word(kernels.size()), tables.word(constants.size()), tables.list(constant_records), values});
  new llvm::GlobalVariable(module, library->getType(), true, llvm::GlobalValue::ExternalLinkage, library,
                           options.symbol);
  for (std::size_t i = 0; i < kernels.size(); ++i)
    module.getFunction(fmt::format("msl_entry_{}", i))->setLinkage(llvm::GlobalValue::InternalLinkage);
}

}  // namespace metal_marlin::air
