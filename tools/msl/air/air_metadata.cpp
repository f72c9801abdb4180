#include "air_metadata.h"

#include <fmt/format.h>
#include <llvm/IR/Constants.h>
#include <llvm/IR/Module.h>

#include "description.h"
#include "msl_abi.h"

namespace metal_marlin::air {
namespace {

// A node's operands, one after the other.
class Node {
 public:
  explicit Node(llvm::LLVMContext& context) : context_(context) {}
  Node& number(std::uint32_t value) {
    return add(llvm::ConstantAsMetadata::get(llvm::ConstantInt::get(llvm::Type::getInt32Ty(context_), value)));
  }
  Node& text(const std::string& value) { return add(llvm::MDString::get(context_, value)); }
  Node& truth(bool value) {
    return add(llvm::ConstantAsMetadata::get(llvm::ConstantInt::get(llvm::Type::getInt1Ty(context_), value ? 1 : 0)));
  }
  Node& global(llvm::GlobalValue& value) { return add(llvm::ConstantAsMetadata::get(&value)); }
  Node& add(llvm::Metadata* value) {
    operands_.push_back(value);
    return *this;
  }
  [[nodiscard]] llvm::MDNode* get() const { return llvm::MDNode::get(context_, operands_); }

 private:
  llvm::LLVMContext& context_;
  std::vector<llvm::Metadata*> operands_;
};

llvm::MDNode* describe_argument(llvm::LLVMContext& context, const TableArgument& argument, std::uint32_t number,
                                const llvm::Type& type) {
  Node node(context);
  node.number(number);
  if (argument.kind == kMslBuiltin) {
    node.text(fmt::format("air.{}", builtin_name(argument.index)));
  } else {
    const std::uint32_t space = llvm::cast<llvm::PointerType>(type).getAddressSpace();
    node.text("air.buffer");
    if (argument.reference) node.text("air.buffer_size").number(argument.size);
    node.text("air.location_index").number(argument.index).number(1);
    node.text(argument.read_only ? "air.read" : "air.read_write").text("air.address_space").number(space);
    node.text("air.arg_type_size").number(argument.size).text("air.arg_type_align_size").number(argument.alignment);
  }
  return node.text("air.arg_type_name").text(argument.type).text("air.arg_name").text(argument.name).get();
}

void describe_kernel(llvm::Module& module, const TableKernel& kernel) {
  llvm::LLVMContext& context = module.getContext();
  llvm::Function& function = *module.getFunction(kernel.name);
  Node arguments(context);
  for (std::uint32_t i = 0; i < kernel.arguments.size(); ++i)
    arguments.add(describe_argument(context, kernel.arguments[i], i, *function.getArg(i)->getType()));
  Node node(context);
  node.global(function).add(Node(context).get()).add(arguments.get());
  if (kernel.max_threads > 0) node.add(Node(context).text("air.max_work_group_size").number(kernel.max_threads).get());
  module.getOrInsertNamedMetadata("air.kernel")->addOperand(node.get());
}

void describe_constants(llvm::Module& module, const std::vector<TableConstant>& constants) {
  for (const TableConstant& constant : constants) {
    const std::string part = fmt::format("{}.MTL_FC_INIT_{}_", constant.name, constant.index);
    for (llvm::GlobalVariable& variable : module.globals()) {
      if (!variable.getName().contains(part)) continue;
      module.getOrInsertNamedMetadata("air.function_constants")
          ->addOperand(Node(module.getContext())
                           .global(variable)
                           .text(constant.type)
                           .text(constant.name)
                           .number(constant.index)
                           .truth(true)
                           .get());
    }
  }
}

}  // namespace

void describe_in_metadata(llvm::Module& module, const TableKernel& kernel,
                          const std::vector<TableConstant>& constants) {
  llvm::LLVMContext& context = module.getContext();
  while (!module.named_metadata_empty()) module.eraseNamedMetadata(&*module.named_metadata_begin());
  module.addModuleFlag(llvm::Module::Error, "wchar_size", 4);
  module.addModuleFlag(llvm::Module::Max, "frame-pointer", 2);
  module.addModuleFlag(llvm::Module::Max, "air.max_device_buffers", 31);
  module.addModuleFlag(llvm::Module::Max, "air.max_constant_buffers", 31);
  module.addModuleFlag(llvm::Module::Max, "air.max_threadgroup_buffers", 31);
  const auto add = [&](const char* name, const Node& node) {
    module.getOrInsertNamedMetadata(name)->addOperand(node.get());
  };
  add("llvm.ident", Node(context).text("metal-marlin-air"));
  add("air.version", Node(context).number(kAirVersion.major).number(kAirVersion.minor).number(0));
  add("air.language_version",
      Node(context).text("Metal").number(kMslVersion.major).number(kMslVersion.minor).number(0));
  add("air.compile_options", Node(context).text("air.compile.denorms_disable"));
  add("air.compile_options", Node(context).text("air.compile.fast_math_disable"));
  describe_kernel(module, kernel);
  describe_constants(module, constants);
}

}  // namespace metal_marlin::air
