#include "description.h"

#include <fmt/format.h>
#include <llvm/IR/Constants.h>
#include <llvm/IR/DataLayout.h>
#include <llvm/IR/Module.h>

#include <array>
#include <optional>

#include "metal_marlin/error.h"
#include "msl_abi.h"

namespace metal_marlin::air {
namespace {

// By MslBuiltin.
constexpr std::array<const char*, kMslBuiltinCount> kBuiltins = {"thread_position_in_grid",
                                                                 "thread_position_in_threadgroup",
                                                                 "threadgroup_position_in_grid",
                                                                 "threads_per_threadgroup",
                                                                 "threads_per_grid",
                                                                 "threadgroups_per_grid",
                                                                 "dispatch_threads_per_threadgroup",
                                                                 "grid_origin",
                                                                 "thread_index_in_threadgroup",
                                                                 "thread_index_in_simdgroup",
                                                                 "simdgroup_index_in_threadgroup",
                                                                 "threads_per_simdgroup",
                                                                 "simdgroups_per_threadgroup",
                                                                 "thread_index_in_quadgroup",
                                                                 "quadgroup_index_in_threadgroup",
                                                                 "quadgroups_per_threadgroup",
                                                                 "thread_execution_width"};

enum AddressSpace : std::uint8_t { kThread = 0, kDevice = 1, kConstant = 2, kThreadgroup = 3 };

[[noreturn]] void corrupt(const std::string& kernel, const std::string& what) {
  throw Error(ErrorCode::kCorruptFile, fmt::format("kernel {}: {}", kernel, what));
}

std::optional<std::string> text_at(const llvm::MDNode& node, unsigned i) {
  if (i >= node.getNumOperands()) return std::nullopt;
  const auto* const text = llvm::dyn_cast_or_null<llvm::MDString>(node.getOperand(i));
  return text == nullptr ? std::nullopt : std::optional(text->getString().str());
}

std::optional<std::uint32_t> number_at(const llvm::MDNode& node, unsigned i) {
  if (i >= node.getNumOperands()) return std::nullopt;
  const auto* const value = llvm::mdconst::dyn_extract_or_null<llvm::ConstantInt>(node.getOperand(i));
  if (value == nullptr || value->getValue().getActiveBits() > 32) return std::nullopt;
  return static_cast<std::uint32_t>(value->getZExtValue());
}

// The fields of an argument's node: words, some with a value behind.
class Fields {
 public:
  Fields(const std::string& kernel, const llvm::MDNode& node, unsigned number)
      : node_(node), place_(fmt::format("kernel {}, argument {}", kernel, number)) {
    for (unsigned i = 0; i < node.getNumOperands() && !find("air.arg_name", i); ++i) {
    }
    place_ = text_after("air.arg_name").empty() ? place_ : fmt::format("{} ({})", place_, text_after("air.arg_name"));
  }
  [[nodiscard]] bool has(const char* word) const { return position(word).has_value(); }
  [[nodiscard]] std::string text_after(const char* word) const {
    const std::optional<unsigned> at = position(word);
    return at ? text_at(node_, *at + 1).value_or("") : "";
  }
  [[nodiscard]] std::uint32_t number_after(const char* word) const {
    const std::optional<unsigned> at = position(word);
    const std::optional<std::uint32_t> found = at ? number_at(node_, *at + 1) : std::nullopt;
    if (!found) throw Error(ErrorCode::kCorruptFile, fmt::format("{}: its metadata has no number {}", place_, word));
    return *found;
  }
  [[nodiscard]] const std::string& place() const { return place_; }

 private:
  [[nodiscard]] bool find(const char* word, unsigned i) const { return text_at(node_, i) == word; }
  [[nodiscard]] std::optional<unsigned> position(const char* word) const {
    for (unsigned i = 0; i < node_.getNumOperands(); ++i) {
      if (find(word, i)) return i;
    }
    return std::nullopt;
  }

  const llvm::MDNode& node_;
  std::string place_;
};

std::optional<std::uint32_t> builtin(const Fields& fields) {
  for (std::uint32_t i = 0; i < kBuiltins.size(); ++i) {
    if (fields.has(fmt::format("air.{}", kBuiltins[i]).c_str())) return i;
  }
  return std::nullopt;
}

// "device float *" and the like.
std::string written_type(const Fields& fields, std::uint32_t space, bool reference) {
  constexpr std::array<const char*, 4> kSpaces = {"thread", "device", "constant", "threadgroup"};
  const char* const access = space == kDevice && fields.has("air.read") ? "const " : "";
  return fmt::format("{} {}{} {}", kSpaces[space], access, fields.text_after("air.arg_type_name"),
                     reference ? "&" : "*");
}

Argument buffer_argument(const Fields& fields) {
  Argument argument;
  const std::uint32_t space = fields.number_after("air.address_space");
  if (space < kDevice || space > kThreadgroup) {
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: a buffer in address space {}", fields.place(), space));
  }
  const bool reference = fields.has("air.buffer_size");
  argument.kind = space == kThreadgroup ? ArgumentKind::kThreadgroup : ArgumentKind::kBuffer;
  argument.read_only = space == kConstant || fields.has("air.read");
  argument.by_value = space == kConstant && reference;
  argument.optional = fields.has("air.function_constant");
  argument.index = fields.number_after("air.location_index");
  argument.size = fields.number_after("air.arg_type_size");
  argument.alignment = fields.number_after("air.arg_type_align_size");
  argument.type = written_type(fields, space, reference);
  return argument;
}

Argument builtin_argument(const Fields& fields, std::uint32_t which, const llvm::Type& type) {
  Argument argument;
  argument.kind = ArgumentKind::kBuiltin;
  argument.index = which;
  argument.type = fields.text_after("air.arg_type_name");
  const llvm::Type* const element = type.getScalarType();
  const auto* const vector = llvm::dyn_cast<llvm::FixedVectorType>(&type);
  if ((!element->isIntegerTy(16) && !element->isIntegerTy(32)) || (vector != nullptr && vector->getNumElements() > 3)) {
    throw Error(ErrorCode::kUnsupported, fmt::format("{} of type {}: expected up to three integers of 16 or 32 bits",
                                                     fields.place(), argument.type));
  }
  argument.size = element->getIntegerBitWidth() / 8 * (vector == nullptr ? 1 : vector->getNumElements() == 2 ? 2 : 4);
  argument.alignment = argument.size;
  return argument;
}

Argument describe_argument(const std::string& kernel, const llvm::MDNode& node, unsigned number,
                           const llvm::Type& type) {
  const Fields fields(kernel, node, number);
  Argument argument;
  if (number_at(node, 0) != number) {
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: described out of order", fields.place()));
  }
  if (fields.has("air.buffer")) {
    if (!type.isPointerTy()) {
      throw Error(ErrorCode::kCorruptFile, fmt::format("{}: a buffer that is no pointer", fields.place()));
    }
    argument = buffer_argument(fields);
  } else if (const std::optional<std::uint32_t> which = builtin(fields)) {
    argument = builtin_argument(fields, *which, type);
  } else {
    std::string kind = "?";
    for (unsigned i = 0; i < node.getNumOperands() && kind == "?"; ++i) {
      const std::string word = text_at(node, i).value_or("");
      if (word.starts_with("air.") && word != "air.function_constant") kind = word.substr(4);
    }
    throw Error(ErrorCode::kUnsupported,
                fmt::format("{}: arguments of kind {} are not supported", fields.place(), kind));
  }
  argument.name = fields.text_after("air.arg_name");
  return argument;
}

std::string joined(const llvm::MDNode& node, unsigned from) {
  std::string out;
  for (unsigned i = from; number_at(node, i); ++i)
    out += fmt::format("{}{}", i == from ? "" : ".", *number_at(node, i));
  return out;
}

void describe_options(const llvm::Module& module, Kernel& kernel) {
  if (const auto* const options = module.getNamedMetadata("air.compile_options")) {
    for (const llvm::MDNode* const option : options->operands()) {
      if (const auto text = text_at(*option, 0)) kernel.compile_options.push_back(*text);
    }
  }
  const auto* const version = module.getNamedMetadata("air.version");
  if (version != nullptr && version->getNumOperands() > 0) kernel.air_version = joined(*version->getOperand(0), 0);
  const auto* const language = module.getNamedMetadata("air.language_version");
  if (language != nullptr && language->getNumOperands() > 0) {
    kernel.language =
        fmt::format("{} {}", text_at(*language->getOperand(0), 0).value_or("?"), joined(*language->getOperand(0), 1));
  }
}

void describe_constants(const llvm::Module& module, Kernel& kernel) {
  const auto* const constants = module.getNamedMetadata("air.function_constants");
  if (constants == nullptr) return;
  for (const llvm::MDNode* const node : constants->operands()) {
    FunctionConstant constant;
    if (node->getNumOperands() > 0) {
      constant.variable = llvm::mdconst::dyn_extract_or_null<llvm::GlobalVariable>(node->getOperand(0));
    }
    const std::optional<std::string> type = text_at(*node, 1);
    const std::optional<std::string> name = text_at(*node, 2);
    const std::optional<std::uint32_t> index = number_at(*node, 3);
    if (constant.variable == nullptr || !type || !name || !index) {
      corrupt(kernel.name, "a function constant's metadata is not (variable, type, name, index)");
    }
    if (!constant.variable->hasName()) constant.variable->setName("function_constant");
    constant.type = *type;
    constant.name = *name;
    constant.index = *index;
    constant.size = static_cast<std::uint32_t>(
        module.getDataLayout().getTypeAllocSize(constant.variable->getValueType()).getFixedValue());
    if (constant.size > 16)
      corrupt(kernel.name, fmt::format("function constant {} has {} bytes", *name, constant.size));
    kernel.constants.push_back(constant);
  }
}

llvm::Function* kernel_function(const llvm::MDNode& node) {
  return node.getNumOperands() < 3 ? nullptr : llvm::mdconst::dyn_extract_or_null<llvm::Function>(node.getOperand(0));
}

const llvm::MDNode& kernel_node(const llvm::Module& module, const std::string& name) {
  const auto* const kernels = module.getNamedMetadata("air.kernel");
  if (kernels == nullptr) corrupt(name, "the module has no air.kernel metadata");
  for (const llvm::MDNode* const node : kernels->operands()) {
    const llvm::Function* const function = kernel_function(*node);
    if (function != nullptr && function->getName() == name) return *node;
  }
  corrupt(name, "the module's air.kernel metadata has no such function");
}

}  // namespace

const char* builtin_name(std::uint32_t index) {
  return kBuiltins.at(index);
}

std::vector<std::string> kernel_names(const llvm::Module& module) {
  std::vector<std::string> names;
  const auto* const kernels = module.getNamedMetadata("air.kernel");
  if (kernels == nullptr) return names;
  for (const llvm::MDNode* const node : kernels->operands()) {
    if (const llvm::Function* const function = kernel_function(*node)) names.push_back(function->getName().str());
  }
  return names;
}

Kernel describe(llvm::Module& module, const std::string& name) {
  Kernel kernel;
  kernel.name = name;
  const llvm::MDNode& node = kernel_node(module, name);
  kernel.function = kernel_function(node);
  if (kernel.function->isDeclaration()) corrupt(kernel.name, "the function has no body");
  if (!kernel.function->getReturnType()->isVoidTy()) corrupt(kernel.name, "the function returns a value");
  const auto* const arguments = llvm::dyn_cast_or_null<llvm::MDNode>(node.getOperand(2));
  if (arguments == nullptr) corrupt(name, "the kernel's metadata has no arguments");
  if (arguments->getNumOperands() != kernel.function->arg_size()) {
    corrupt(kernel.name, fmt::format("{} arguments are described, the function has {}", arguments->getNumOperands(),
                                     kernel.function->arg_size()));
  }
  for (unsigned i = 0; i < arguments->getNumOperands(); ++i) {
    const auto* const argument = llvm::dyn_cast_or_null<llvm::MDNode>(arguments->getOperand(i));
    if (argument == nullptr) corrupt(kernel.name, fmt::format("argument {} is not described", i));
    kernel.arguments.push_back(describe_argument(kernel.name, *argument, i, *kernel.function->getArg(i)->getType()));
  }
  for (unsigned i = 3; i < node.getNumOperands(); ++i) {
    const auto* const more = llvm::dyn_cast_or_null<llvm::MDNode>(node.getOperand(i));
    if (more != nullptr && text_at(*more, 0) == "air.max_work_group_size") {
      kernel.max_threads = number_at(*more, 1).value_or(0);
    }
  }
  describe_options(module, kernel);
  describe_constants(module, kernel);
  return kernel;
}

}  // namespace metal_marlin::air
