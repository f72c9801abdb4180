#include "backends/msl/metal/metal_library.h"

#include <fmt/format.h>

#include <array>
#include <cstdio>

#include "backends/msl/metal/metal_commands.h"
#include "metal_marlin/error.h"

namespace metal_marlin::msl::metal {
namespace {

MTL::DataType data_type(const MslFunctionConstant& constant) {
  constexpr std::array<std::pair<std::string_view, MTL::DataType>, 7> types{{{"bool", MTL::DataTypeBool},
                                                                             {"int", MTL::DataTypeInt},
                                                                             {"uint", MTL::DataTypeUInt},
                                                                             {"short", MTL::DataTypeShort},
                                                                             {"ushort", MTL::DataTypeUShort},
                                                                             {"half", MTL::DataTypeHalf},
                                                                             {"float", MTL::DataTypeFloat}}};
  for (const auto& [name, type] : types) {
    if (name == constant.type) return type;
  }
  throw Error(ErrorCode::kUnsupported, fmt::format("function constant {} is of type {}", constant.name, constant.type));
}

// Every constant gets a value: Metal makes no pipeline of a function that lacks one which it reads.
NS::SharedPtr<MTL::FunctionConstantValues> values_of(const MslLibrary& library, const FunctionConstants& constants) {
  const MslConstantValues values = constant_values(library, constants);
  NS::SharedPtr<MTL::FunctionConstantValues> out = NS::TransferPtr(MTL::FunctionConstantValues::alloc()->init());
  for (std::uint32_t i = 0; i < library.constant_count; ++i) {
    const MslFunctionConstant& constant = library.constants[i];
    out->setConstantValue(&values.value[i], data_type(constant), constant.index);
  }
  return out;
}

NS::SharedPtr<MTL::CompileOptions> compile_options() {
  NS::SharedPtr<MTL::CompileOptions> options = NS::TransferPtr(MTL::CompileOptions::alloc()->init());
  options->setLanguageVersion(MTL::LanguageVersion3_1);
  if (macos_at_least(15)) {
    options->setMathMode(MTL::MathModeSafe);
    options->setMathFloatingPointFunctions(MTL::MathFloatingPointFunctionsPrecise);  // else exp is fast::exp
  } else {
    options->setFastMathEnabled(false);
  }
  return options;
}

[[noreturn]] void fail(const EmbeddedShader& shader, const MslKernel& kernel, const NS::Error* error) {
  throw Error(ErrorCode::kInternal, fmt::format("{}.metal: kernel {}: {}", shader.name, kernel.name, text_of(error)));
}

}  // namespace

MetalLibrary::MetalLibrary(NS::SharedPtr<MTL::Device> device, const std::filesystem::path& file)
    : device_(std::move(device)) {
  if (std::filesystem::exists(file)) load(file.string());
}

void MetalLibrary::load(const std::string& file) {
  NS::Error* error = nullptr;
  all_ = NS::TransferPtr(device_->newLibrary(string_of(file), &error));
  if (all_) return;
  const std::string text =
      fmt::format("metal-marlin: {}: {}; shaders are compiled from their text instead\n", file, text_of(error));
  std::fputs(text.c_str(), stderr);  // a message that cannot be written ends nothing
}

MTL::Library& MetalLibrary::library_of(const EmbeddedShader& shader) {
  if (all_) return *all_.get();
  NS::SharedPtr<MTL::Library>& library = compiled_[std::string(shader.name)];
  if (library) return *library.get();
  NS::Error* error = nullptr;
  library = NS::TransferPtr(device_->newLibrary(string_of(source_of(shader)), compile_options().get(), &error));
  if (!library) throw Error(ErrorCode::kInternal, fmt::format("{}.metal: {}", shader.name, text_of(error)));
  return *library.get();
}

std::unique_ptr<Pipeline> MetalLibrary::make_pipeline(const EmbeddedShader& shader, std::size_t index,
                                                      const FunctionConstants& constants) {
  const MslKernel& kernel = shader.library->kernels[index];
  NS::Error* error = nullptr;
  const NS::SharedPtr<MTL::Function> function = NS::TransferPtr(
      library_of(shader).newFunction(string_of(kernel.name), values_of(*shader.library, constants).get(), &error));
  if (!function) fail(shader, kernel, error);
  NS::SharedPtr<MTL::ComputePipelineState> state =
      NS::TransferPtr(device_->newComputePipelineState(function.get(), &error));
  if (!state) fail(shader, kernel, error);
  return std::make_unique<MetalPipeline>(kernel, std::move(state));
}

}  // namespace metal_marlin::msl::metal
