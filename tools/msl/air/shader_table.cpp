#include "shader_table.h"

#include <fmt/format.h>
#include <llvm/IR/Constants.h>
#include <llvm/IR/Module.h>

#include <array>
#include <sstream>

#include "metal_marlin/error.h"
#include "msl_abi.h"

namespace metal_marlin::air {
namespace {

constexpr const char* kTable = "msl_library";

// TableFields of a constant structure.
class TableFields {
 public:
  TableFields(const llvm::Constant* value, std::string where) : value_(value), where_(std::move(where)) {}

  [[nodiscard]] std::uint32_t number(unsigned i) const {
    const auto* const found = llvm::dyn_cast<llvm::ConstantInt>(&at(i));
    if (found == nullptr) fail(fmt::format("field {} is no number", i));
    return static_cast<std::uint32_t>(found->getZExtValue());
  }
  [[nodiscard]] std::string text(unsigned i) const {
    const auto* const variable = pointee(i);
    const auto* const bytes = variable == nullptr || !variable->hasInitializer()
                                  ? nullptr
                                  : llvm::dyn_cast<llvm::ConstantDataArray>(variable->getInitializer());
    if (bytes == nullptr || !bytes->isCString()) fail(fmt::format("field {} is no text", i));
    return bytes->getAsCString().str();
  }
  // The elements that it points to.
  [[nodiscard]] std::vector<TableFields> list(unsigned i, std::uint32_t count) const {
    std::vector<TableFields> out;
    const auto* const variable = pointee(i);
    for (std::uint32_t k = 0; k < count; ++k) {
      const llvm::Constant* const element = variable == nullptr || !variable->hasInitializer()
                                                ? nullptr
                                                : variable->getInitializer()->getAggregateElement(k);
      if (element == nullptr) fail(fmt::format("field {} has less than {} elements", i, count));
      out.emplace_back(element, where_);
    }
    return out;
  }
  [[nodiscard]] llvm::Function* function(unsigned i) const {
    return const_cast<llvm::Function*>(llvm::dyn_cast<llvm::Function>(at(i).stripPointerCasts()));
  }
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: the table of kernels: {}", where_, what));
  }

 private:
  [[nodiscard]] const llvm::Constant& at(unsigned i) const {
    const llvm::Constant* const field = value_->getAggregateElement(i);
    if (field == nullptr) fail(fmt::format("it has no field {}", i));
    return *field;
  }
  [[nodiscard]] const llvm::GlobalVariable* pointee(unsigned i) const {
    return llvm::dyn_cast<llvm::GlobalVariable>(at(i).stripPointerCasts());
  }

  const llvm::Constant* value_;
  std::string where_;
};

// "half" of "device const half *".
std::string pointee_type(const std::string& written) {
  std::istringstream words(written);
  std::string out;
  for (std::string word; words >> word;) {
    constexpr std::array<const char*, 8> kNotTheType = {"device",   "constant", "threadgroup", "const",
                                                        "volatile", "*",        "&",           "struct"};
    if (std::find(kNotTheType.begin(), kNotTheType.end(), word) == kNotTheType.end())
      out += (out.empty() ? "" : " ") + word;
  }
  return out;
}

TableArgument argument_of(const TableFields& fields, const std::string& where) {
  TableArgument argument;
  argument.name = fields.text(0);
  const std::string type = fields.text(1);
  argument.type = pointee_type(type);
  argument.kind = fields.number(2);
  argument.read_only = fields.number(3) != 0;
  argument.reference = type.find('&') != std::string::npos;
  if (fields.number(5) != 0) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: argument {} depends on a function constant, which is not written into metallibs",
                            where, argument.name));
  }
  argument.index = fields.number(6);
  argument.size = fields.number(7);
  argument.alignment = fields.number(8);
  return argument;
}

TableKernel kernel_of(const TableFields& fields, const std::string& where) {
  TableKernel kernel;
  kernel.name = fields.text(0);
  kernel.function = fields.function(1);
  if (kernel.function == nullptr || kernel.function->isDeclaration() || kernel.function->getName() != kernel.name)
    fields.fail(fmt::format("kernel {} has no function of its name", kernel.name));
  const std::string name = fmt::format("{}: kernel {}", where, kernel.name);
  for (const TableFields& argument : fields.list(2, fields.number(3)))
    kernel.arguments.push_back(argument_of(argument, name));
  kernel.max_threads = fields.number(4);
  if (kernel.arguments.size() != kernel.function->arg_size())
    fields.fail(fmt::format("kernel {} has {} arguments, its function {}", kernel.name, kernel.arguments.size(),
                            kernel.function->arg_size()));
  return kernel;
}

}  // namespace

ShaderTable take_table(llvm::Module& module, const std::string& where) {
  llvm::GlobalVariable* const variable = module.getNamedGlobal(kTable);
  if (variable == nullptr || !variable->hasInitializer())
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: no table of kernels ({})", where, kTable));
  const TableFields library(variable->getInitializer(), where);
  if (library.number(0) != kMslAbiVersion)
    library.fail(fmt::format("ABI version {}, expected {}", library.number(0), static_cast<int>(kMslAbiVersion)));
  ShaderTable table;
  for (const TableFields& kernel : library.list(2, library.number(3)))
    table.kernels.push_back(kernel_of(kernel, where));
  for (const TableFields& constant : library.list(5, library.number(4)))
    table.constants.push_back({constant.text(0), constant.text(1), constant.number(2)});
  variable->eraseFromParent();
  return table;
}

}  // namespace metal_marlin::air
