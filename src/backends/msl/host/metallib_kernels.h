// Kernels of a metallib in place of those of this build: lowered to this processor's code by
// metal-marlin-air, once for each file's content, and kept in the user's cache.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "backends/msl/device.h"

namespace metal_marlin::msl {

class MetallibKernels {
 public:
  // The file that METAL_MARLIN_METALLIB names, null for none.
  static const char* chosen_file();
  // Its kernels, null where none is named; lowered and loaded at the first call.
  // \throws Error (kNotFound, kCorruptFile, kUnsupported) naming the file.
  static const MetallibKernels* chosen(bool instrumented);

  // \param kernel of this build, and its library \throws Error (kNotFound, kInvalidArgument) naming the kernel
  // that the file lacks, or whose arguments are others there.
  [[nodiscard]] std::unique_ptr<Pipeline> pipeline(const MslLibrary& library, const MslKernel& kernel,
                                                   const FunctionConstants& constants) const;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  MetallibKernels(const std::filesystem::path& path, bool instrumented);
  void load(const std::filesystem::path& part);

  struct Place {
    const MslLibrary* library;
    std::uint32_t kernel;
  };
  std::filesystem::path path_;
  std::map<std::string_view, Place> kernels_;
};

// Of the kernels in a metallib, without lowering them. \throws Error (kNotFound, kCorruptFile) naming the file.
std::size_t count_kernels(const std::filesystem::path& metallib);

// Of two descriptions of a kernel: what differs in its arguments, empty for nothing.
std::string difference(const MslKernel& expected, const MslKernel& found);

}  // namespace metal_marlin::msl
