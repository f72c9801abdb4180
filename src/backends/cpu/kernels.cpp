#include "backends/cpu/kernels.h"

#include <fmt/format.h>

#include <cstring>
#include <vector>

#include "metal_marlin/error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace metal_marlin::cpu {

extern const Kernels kPlainKernels;
#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512Bf16Kernels;
#elif defined(__aarch64__)
extern const Kernels kNeonKernels;
#endif

namespace {

#if defined(__x86_64__)
// Not all compilers' __builtin_cpu_supports knows these two.
bool has_f16c() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
bool has_avx512bf16() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & bit_AVX512BF16) != 0;
}
#endif

std::vector<const Kernels*> detect() {
  std::vector<const Kernels*> tables;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
    if (has_avx512bf16()) tables.push_back(&kAvx512Bf16Kernels);
    tables.push_back(&kAvx512Kernels);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
    tables.push_back(&kAvx2Kernels);
  }
#elif defined(__aarch64__)
#if defined(__linux__)
  const bool has_dot_product = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  const bool has_dot_product = true;  // all of Apple's for the Mac
#endif
  if (has_dot_product) tables.push_back(&kNeonKernels);
#endif
  tables.push_back(&kPlainKernels);
  return tables;
}

}  // namespace

std::span<const Kernels* const> available_kernels() {
  static const std::vector<const Kernels*> tables = detect();
  return tables;
}

const Kernels& find_kernels(const char* name) {
  std::string known;
  for (const Kernels* const table : available_kernels()) {
    if (std::strcmp(table->name, name) == 0) return *table;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", table->name);
  }
  throw Error(ErrorCode::kUnsupported, fmt::format("instruction set '{}', expected one of {}", name, known));
}

}  // namespace metal_marlin::cpu
