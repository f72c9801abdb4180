#include "pack.h"

#include <fmt/format.h>
#include <llvm/Bitcode/BitcodeWriter.h>
#include <llvm/IR/Constants.h>
#include <llvm/IR/LLVMContext.h>
#include <llvm/IR/Module.h>
#include <llvm/IR/Verifier.h>
#include <llvm/IRReader/IRReader.h>
#include <llvm/Support/SourceMgr.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/Transforms/Utils/Cloning.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "air_metadata.h"
#include "air_words.h"
#include "io/file_write.h"
#include "io/metallib.h"
#include "metal_marlin/error.h"
#include "shader_table.h"

namespace metal_marlin::air {
namespace {

using Globals = std::set<const llvm::GlobalValue*>;

// A kernel's module, and what the container says of it.
struct Packed {
  std::string name;
  std::string bitcode;
  std::vector<TableConstant> constants;
};

// Functions and variables that `start` needs, itself among them.
void add_needs(const llvm::GlobalValue& start, Globals& all) {
  std::vector<const llvm::User*> open;
  std::set<const llvm::User*> seen;
  const auto reach = [&](const llvm::Value* value) {
    const auto* const constant = llvm::dyn_cast<llvm::Constant>(value);
    if (constant == nullptr || !seen.insert(constant).second) return;
    open.push_back(constant);
    if (const auto* const global = llvm::dyn_cast<llvm::GlobalValue>(constant)) all.insert(global);
  };
  reach(&start);
  while (!open.empty()) {
    const llvm::User* const user = open.back();
    open.pop_back();
    for (const llvm::Use& use : user->operands()) reach(use.get());
    const auto* const function = llvm::dyn_cast<llvm::Function>(user);
    if (function == nullptr) continue;
    for (const llvm::BasicBlock& block : *function) {
      for (const llvm::Instruction& instruction : block) {
        for (const llvm::Use& use : instruction.operands()) reach(use.get());
      }
    }
  }
}

std::vector<const llvm::Function*> initialisers(const llvm::Module& module) {
  std::vector<const llvm::Function*> found;
  const llvm::GlobalVariable* const list = module.getNamedGlobal("llvm.global_ctors");
  if (list == nullptr) return found;
  for (const llvm::Use& entry : list->getInitializer()->operands()) {
    const llvm::Constant* const function = llvm::cast<llvm::Constant>(entry)->getAggregateElement(1);
    found.push_back(llvm::cast<llvm::Function>(function->stripPointerCasts()));
  }
  return found;
}

// A kernel needs those static initialisers that write a variable which it needs.
void add_initialisers(const llvm::Module& module, Globals& needed) {
  for (const llvm::Function* const initialiser : initialisers(module)) {
    Globals written;
    add_needs(*initialiser, written);
    const bool meet = std::any_of(written.begin(), written.end(), [&](const llvm::GlobalValue* value) {
      const auto* const variable = llvm::dyn_cast<llvm::GlobalVariable>(value);
      return variable != nullptr && !variable->isConstant() && needed.contains(value);
    });
    if (meet) needed.insert(written.begin(), written.end());
  }
}

void list_initialisers(llvm::Module& module, const std::vector<llvm::Function*>& functions) {
  llvm::LLVMContext& context = module.getContext();
  llvm::Type* const pointer = llvm::PointerType::get(context, 0);
  auto* const entry = llvm::StructType::get(llvm::Type::getInt32Ty(context), pointer, pointer);
  std::vector<llvm::Constant*> entries;
  for (llvm::Function* const function : functions) {
    function->setName("_GLOBAL__sub_I_shader");  // not after a file that clang was given for a moment
    function->setSection("air.static_init");
    entries.push_back(llvm::ConstantStruct::get(entry, llvm::ConstantInt::get(llvm::Type::getInt32Ty(context), 65535),
                                                function,
                                                llvm::ConstantPointerNull::get(llvm::PointerType::get(context, 0))));
  }
  auto* const list = llvm::ConstantArray::get(llvm::ArrayType::get(entry, entries.size()), entries);
  new llvm::GlobalVariable(module, list->getType(), false, llvm::GlobalValue::AppendingLinkage, list,
                           "llvm.global_ctors");
}

// What a kernel needs, as a module of its own in which the kernel alone can be seen from outside.
std::unique_ptr<llvm::Module> module_of(const llvm::Module& shader, const TableKernel& kernel) {
  Globals needed;
  add_needs(*kernel.function, needed);
  add_initialisers(shader, needed);
  llvm::ValueToValueMapTy map;
  std::unique_ptr<llvm::Module> module =
      llvm::CloneModule(shader, map, [&](const llvm::GlobalValue* value) { return needed.contains(value); });
  std::vector<llvm::Function*> run_first;
  for (const llvm::Function* const initialiser : initialisers(shader)) {
    if (needed.contains(initialiser)) run_first.push_back(llvm::cast<llvm::Function>(map[initialiser]));
  }
  for (llvm::GlobalVariable& variable : llvm::make_early_inc_range(module->globals())) {
    variable.removeDeadConstantUsers();
    if (variable.use_empty()) variable.eraseFromParent();
  }
  for (llvm::Function& function : llvm::make_early_inc_range(module->functions())) {
    if (function.isDeclaration() && function.use_empty()) function.eraseFromParent();
  }
  for (llvm::GlobalValue& value : module->global_values()) {
    if (value.isDeclaration()) continue;
    value.setLinkage(llvm::GlobalValue::InternalLinkage);
    value.setVisibility(llvm::GlobalValue::DefaultVisibility);
    if (auto* const object = llvm::dyn_cast<llvm::GlobalObject>(&value)) object->setComdat(nullptr);
  }
  llvm::Function& function = *module->getFunction(kernel.name);
  function.setLinkage(llvm::GlobalValue::WeakODRLinkage);
  function.setDSOLocal(false);
  for (llvm::Argument& argument : function.args()) {
    if (argument.getType()->isPointerTy())
      function.addParamAttr(argument.getArgNo(), llvm::Attribute::get(module->getContext(), "air-buffer-no-alias"));
  }
  list_initialisers(*module, run_first);
  module->setModuleIdentifier(kernel.name);
  module->setSourceFileName(kernel.name);
  return module;
}

Packed packed(const llvm::Module& shader, const TableKernel& kernel, const ShaderTable& table,
              const std::string& where) {
  const std::unique_ptr<llvm::Module> module = module_of(shader, kernel);
  describe_in_metadata(*module, kernel, table.constants);
  std::string fault;
  llvm::raw_string_ostream faults(fault);
  if (llvm::verifyModule(*module, &faults))
    throw Error(ErrorCode::kInternal, fmt::format("{}: kernel {}: {}", where, kernel.name, fault));
  Packed out;
  out.name = kernel.name;
  llvm::raw_string_ostream stream(out.bitcode);
  llvm::WriteBitcodeToFile(*module, stream);  // with wrapper and zeros, since the triple is Apple's
  for (const TableConstant& constant : table.constants) {
    const auto* const described = module->getNamedMetadata("air.function_constants");
    const bool used = described != nullptr && std::any_of(described->op_begin(), described->op_end(), [&](auto* node) {
                        return llvm::cast<llvm::MDString>(node->getOperand(2))->getString() == constant.name;
                      });
    if (used) out.constants.push_back(constant);
  }
  return out;
}

void pack_shader(const std::string& path, std::vector<Packed>& all) {
  llvm::LLVMContext context;
  llvm::SMDiagnostic diagnostic;
  const std::unique_ptr<llvm::Module> module = llvm::parseIRFile(path, diagnostic, context);
  if (module == nullptr)
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: {}", path, diagnostic.getMessage().str()));
  const ShaderTable table = take_table(*module, path);
  for (llvm::GlobalVariable& variable : llvm::make_early_inc_range(module->globals())) {
    variable.removeDeadConstantUsers();
    if (variable.use_empty() && !variable.hasAppendingLinkage()) variable.eraseFromParent();
  }
  use_air_words(*module, path);
  for (const TableKernel& kernel : table.kernels) all.push_back(packed(*module, kernel, table, path));
}

// As MTLDataType numbers them.
std::uint8_t type_number(const TableConstant& constant) {
  static const std::map<std::string, std::uint8_t> numbers = {{"bool", 53},  {"char", 45},   {"uchar", 49},
                                                              {"short", 37}, {"ushort", 41}, {"int", 29},
                                                              {"uint", 33},  {"half", 16},   {"float", 3}};
  const auto found = numbers.find(constant.type);
  if (found == numbers.end()) {
    throw Error(ErrorCode::kUnsupported,
                fmt::format("function constant {} of type {}: expected a scalar of at most 32 bits", constant.name,
                            constant.type));
  }
  return found->second;
}

MetallibFunction function_of(const Packed& kernel) {
  MetallibFunction function;
  function.name = kernel.name;
  function.air = kAirVersion;
  function.language = kMslVersion;
  function.bitcode = std::as_bytes(std::span(kernel.bitcode));
  for (const TableConstant& constant : kernel.constants)
    function.constants.push_back({constant.name, type_number(constant), static_cast<std::uint16_t>(constant.index), 1});
  return function;
}

}  // namespace

void pack(const std::vector<std::string>& modules, const std::string& output) {
  std::vector<Packed> kernels;
  for (const std::string& path : modules) {
    std::error_code none;
    if (std::filesystem::equivalent(path, output, none))
      throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: is the source {}", output, path));
    pack_shader(path, kernels);
  }
  std::set<std::string> names;
  Metallib library;
  for (const Packed& kernel : kernels) {
    if (!names.insert(kernel.name).second)
      throw Error(ErrorCode::kInvalidArgument, fmt::format("two kernels are named {}", kernel.name));
    library.functions.push_back(function_of(kernel));
  }
  write_file_atomically(output, std::span<const std::byte>(write_metallib(library)));
}

}  // namespace metal_marlin::air
