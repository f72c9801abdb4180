#include "check.h"

#include <llvm/ADT/SmallString.h>
#include <llvm/IR/LLVMContext.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/Target/TargetMachine.h>

#include <atomic>
#include <cctype>

#include "base/thread_pool.h"
#include "emit.h"
#include "guard.h"
#include "metal_marlin/error.h"

namespace metal_marlin::air {

std::vector<CheckResult> check(const std::vector<KernelSource>& kernels, const LowerOptions& options, int threads) {
  std::vector<CheckResult> results(kernels.size());
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    const std::unique_ptr<llvm::TargetMachine> machine = target_machine(options);
    for (std::size_t i = next++; i < kernels.size(); i = next++) {
      results[i].kernel = kernels[i].name;
      try {
        run_guarded("kernel " + kernels[i].name, [&] {
          llvm::LLVMContext context;
          llvm::SmallString<0> code;
          llvm::raw_svector_ostream out(code);
          emit(*lower(context, {kernels[i]}, options), *machine, options, out);
        });
      } catch (const Error& e) {
        results[i].error = e.what();
      }
    }
  };
  ThreadPool(threads).run([&](int) { work(); });
  return results;
}

std::string family(const std::string& kernel) {
  std::string out;
  std::size_t at = 0;
  while (at < kernel.size()) {
    const std::size_t end = std::min(kernel.find('_', at), kernel.size());
    const std::string word = kernel.substr(at, end - at);
    const bool format = word.find("fp") != std::string::npos && word.find("float") == std::string::npos;  // mxfp4
    const bool tells = (word.find_first_of("0123456789") != std::string::npos && !format) ||
                       word.starts_with("float") || word.find("bool") != std::string::npos;
    if (tells) break;
    out += (out.empty() ? "" : "_") + word;
    at = end + 1;
  }
  return out.empty() ? kernel.substr(0, kernel.find_first_of("0123456789_")) : out;
}

}  // namespace metal_marlin::air
