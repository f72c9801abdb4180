#include "guard.h"

#include <fmt/format.h>
#include <llvm/Support/CrashRecoveryContext.h>
#include <llvm/Support/ErrorHandling.h>

#include <cstdlib>
#include <exception>

#include "metal_marlin/error.h"

namespace metal_marlin::air {
namespace {

thread_local std::string t_reason;

void keep_reason(void*, const char* reason, bool) {
  t_reason = reason;
  std::abort();  // which run_guarded takes up
}

}  // namespace

void initialise_guard() {
  llvm::install_fatal_error_handler(keep_reason);
  llvm::CrashRecoveryContext::Enable();
}

void run_guarded(const std::string& what, const std::function<void()>& work) {
  t_reason.clear();
  std::exception_ptr thrown;
  llvm::CrashRecoveryContext context;
  const bool done = context.RunSafely([&] {
    try {
      work();
    } catch (...) {
      thrown = std::current_exception();
    }
  });
  if (!done) {
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: LLVM gives up on the module: {}", what, t_reason.empty() ? "it crashed" : t_reason));
  }
  if (thrown != nullptr) std::rethrow_exception(thrown);
}

}  // namespace metal_marlin::air
