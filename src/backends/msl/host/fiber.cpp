#include "backends/msl/host/fiber.h"

#include <cstdint>

// How the two object formats write a function's name, and its end.
#if defined(__APPLE__)
#define MM_BEGIN(name) ".globl _" name "\n.p2align 2\n_" name ":\n"
#define MM_END(name) "\n"
#else
#define MM_BEGIN(name) ".globl " name "\n.p2align 4\n" name ":\n"
#define MM_END(name) "\n.type " name ", %function\n.size " name ", . - " name "\n"
#endif

#if defined(__x86_64__)
asm(".text\n" MM_BEGIN("metal_marlin_switch_fiber") R"(
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmpq *%rcx  # not ret, whose target the processor foresees from the calls before it
)" MM_END("metal_marlin_switch_fiber") MM_BEGIN("metal_marlin_start_fiber") R"(
  movq %r12, %rdi
  callq *%rbx
  ud2
)" MM_END("metal_marlin_start_fiber"));
#elif defined(__aarch64__)
asm(".text\n" MM_BEGIN("metal_marlin_switch_fiber") R"(
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
)" MM_END("metal_marlin_switch_fiber") MM_BEGIN("metal_marlin_start_fiber") R"(
  mov x0, x20
  blr x19
  brk #0
)" MM_END("metal_marlin_start_fiber"));
#else
#error "no fiber switch for this processor"
#endif

extern "C" void metal_marlin_start_fiber();

namespace metal_marlin::msl {

void* prepare_fiber(void* top, void (*entry)(void*), void* argument) {
  const std::uintptr_t aligned = reinterpret_cast<std::uintptr_t>(top) & ~std::uintptr_t{63};
#if defined(__x86_64__)
  // r15 r14 r13 r12 rbx rbp, the return address, and a zero that ends back traces.
  // At the call in start_fiber the stack must be a multiple of 16.
  auto** const sp = reinterpret_cast<void**>(aligned - 72);
  sp[0] = sp[1] = sp[2] = nullptr;
  sp[3] = argument;
  sp[4] = reinterpret_cast<void*>(entry);
  sp[5] = nullptr;
  sp[6] = reinterpret_cast<void*>(&metal_marlin_start_fiber);
  sp[7] = nullptr;
#else
  auto** const sp = reinterpret_cast<void**>(aligned - 160);
  for (int i = 0; i < 20; ++i) sp[i] = nullptr;
  sp[0] = reinterpret_cast<void*>(entry);
  sp[1] = argument;
  sp[11] = reinterpret_cast<void*>(&metal_marlin_start_fiber);
#endif
  return sp;
}

}  // namespace metal_marlin::msl
