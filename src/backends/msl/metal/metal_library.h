// Shaders as Metal holds them: one library that Apple's compiler made of all, or each compiled from its text.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "backends/msl/device.h"
#include "backends/msl/metal/metal_objects.h"

namespace metal_marlin::msl::metal {

class MetalLibrary {
 public:
  // `file`: the library; where it is missing shaders are compiled when they are first needed, and where
  // Metal does not take it too, after a word on stderr.
  MetalLibrary(NS::SharedPtr<MTL::Device> device, const std::filesystem::path& file);
  // Function constants that are not given, which the kernel does not use, are zero. \throws Error (kInternal) with what
  // Apple's compiler says.
  std::unique_ptr<Pipeline> make_pipeline(const EmbeddedShader& shader, std::size_t kernel,
                                          const FunctionConstants& constants);

 private:
  void load(const std::string& file);
  MTL::Library& library_of(const EmbeddedShader& shader);

  NS::SharedPtr<MTL::Device> device_;
  NS::SharedPtr<MTL::Library> all_;
  std::map<std::string, NS::SharedPtr<MTL::Library>, std::less<>> compiled_;
};

}  // namespace metal_marlin::msl::metal
