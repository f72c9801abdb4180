// Arbitrary bytes as a safetensors file.
#include "io/safetensors.h"
#include "metal_marlin/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace metal_marlin;
  try {
    for (const auto& [name, view] : parse_safetensors(std::as_bytes(std::span(data, size)), "input")) {
      if (!is_float(view.dtype) || view.bytes.empty()) continue;
      float last = 0;
      convert_to_f32(view.dtype, view.bytes, view.bytes.size() / dtype_bytes(view.dtype) - 1, 1, &last);
    }
  } catch (const Error&) {
  }
  return 0;
}
