// The bitcode of definitions/, as bytes.
#include "intrinsics.h"

#define BYTES(label, path)                       \
  ".globl " label "\n" label ": .incbin \"" path \
  "\"\n"                                         \
  ".globl " label "_end\n" label "_end: .byte 0\n"
asm(".section .rodata\n" BYTES("air_host", AIR_DEFINITIONS "/host.bc")
        BYTES("air_instrumented", AIR_DEFINITIONS "/instrumented.bc")
            BYTES("air_ptx", AIR_DEFINITIONS "/ptx.bc") ".text\n");
extern "C" const char air_host[], air_host_end[], air_instrumented[], air_instrumented_end[], air_ptx[], air_ptx_end[];

namespace metal_marlin::air {

std::string_view definitions(Machine machine, bool instrument) {
  const auto bytes = [](const char* begin, const char* end) {
    return std::string_view(begin, static_cast<std::size_t>(end - begin));
  };
  if (machine == Machine::kPtx) return bytes(air_ptx, air_ptx_end);
  return instrument ? bytes(air_instrumented, air_instrumented_end) : bytes(air_host, air_host_end);
}

}  // namespace metal_marlin::air
