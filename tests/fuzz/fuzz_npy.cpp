// Arbitrary bytes as a NumPy array.
#include "io/npy.h"
#include "metal_marlin/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace metal_marlin;
  try {
    const NpyArray array = parse_npy(std::as_bytes(std::span(data, size)), "input");
    if (array.bytes.size() > size) __builtin_trap();
  } catch (const Error&) {
  }
  return 0;
}
