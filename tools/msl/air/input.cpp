#include "input.h"

#include <fmt/format.h>
#include <llvm/AsmParser/Parser.h>
#include <llvm/Bitcode/BitcodeReader.h>
#include <llvm/IR/Verifier.h>
#include <llvm/Support/MemoryBuffer.h>
#include <llvm/Support/SourceMgr.h>
#include <llvm/Support/raw_ostream.h>

#include <algorithm>
#include <span>

#include "description.h"
#include "guard.h"
#include "io/metallib.h"
#include "metal_marlin/error.h"

namespace metal_marlin::air {
namespace {

std::unique_ptr<llvm::MemoryBuffer> read_file(const std::string& path) {
  auto read = llvm::MemoryBuffer::getFile(path);
  if (!read) throw Error(ErrorCode::kNotFound, fmt::format("{}: {}", path, read.getError().message()));
  return std::move(*read);
}

bool is_bitcode(std::string_view bytes) {
  return bytes.starts_with("BC\xC0\xDE") || bytes.starts_with("\xDE\xC0\x17\x0B");
}

}  // namespace

InputFile::InputFile(const std::string& path) : path_(path), file_(read_file(path)) {
  const std::string_view bytes(file_->getBufferStart(), file_->getBufferSize());
  if (bytes.empty()) throw Error(ErrorCode::kCorruptFile, fmt::format("{}: is empty", path));
  if (!bytes.starts_with("MTLB")) {
    run_guarded(path, [&] {
      llvm::LLVMContext context;
      for (const std::string& name : kernel_names(*parse_module(context, {path, bytes})))
        kernels_.push_back({name, bytes});
    });
    return;
  }
  const Metallib library = parse_metallib(std::as_bytes(std::span(bytes)), path);
  for (const MetallibFunction& function : library.functions) {
    if (function.type != MetallibFunctionType::kKernel) continue;
    const auto* const begin = reinterpret_cast<const char*>(function.bitcode.data());
    kernels_.push_back({std::string(function.name), std::string_view(begin, function.bitcode.size())});
  }
}
InputFile::~InputFile() = default;

std::vector<KernelSource> InputFile::select(const std::vector<std::string>& names) const {
  if (names.empty()) return kernels_;
  std::vector<KernelSource> out;
  for (const std::string& name : names) {
    const auto found =
        std::find_if(kernels_.begin(), kernels_.end(), [&](const KernelSource& k) { return k.name == name; });
    if (found == kernels_.end()) {
      throw Error(ErrorCode::kNotFound, fmt::format("{}: no kernel {} among its {}", path_, name, kernels_.size()));
    }
    out.push_back(*found);
  }
  return out;
}

std::unique_ptr<llvm::Module> parse_module(llvm::LLVMContext& context, const KernelSource& source) {
  const llvm::MemoryBufferRef buffer({source.module.data(), source.module.size()}, source.name);
  std::unique_ptr<llvm::Module> module;
  if (is_bitcode(source.module)) {
    auto parsed = llvm::parseBitcodeFile(buffer, context);
    if (!parsed) throw Error(ErrorCode::kCorruptFile, fmt::format("{}: {}", source.name, toString(parsed.takeError())));
    module = std::move(*parsed);
  } else {
    llvm::SMDiagnostic problem;
    const std::string text(source.module);  // ends with a zero, as the parser wants
    module = llvm::parseAssembly(llvm::MemoryBufferRef(text, source.name), problem, context);
    if (module == nullptr) {
      throw Error(ErrorCode::kCorruptFile, fmt::format("{}:{}: neither a metallib nor LLVM's bitcode or text: {}",
                                                       source.name, problem.getLineNo(), problem.getMessage().str()));
    }
  }
  std::string problem;
  llvm::raw_string_ostream stream(problem);
  if (llvm::verifyModule(*module, &stream)) {
    std::string line = llvm::StringRef(problem).trim().str();
    std::replace(line.begin(), line.end(), '\n', ' ');
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: {}", source.name, line));
  }
  return module;
}

}  // namespace metal_marlin::air
