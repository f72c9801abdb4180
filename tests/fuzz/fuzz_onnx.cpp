// Arbitrary bytes as an ONNX file.
#include "io/onnx.h"
#include "metal_marlin/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace metal_marlin;
  try {
    const OnnxFile file(std::as_bytes(std::span(data, size)), "/nowhere", "input");
    for (const auto& [name, weight] : file.weights()) {
      if (weight.view.bytes.empty()) continue;
      float last = 0;
      convert_to_f32(weight.view.dtype, weight.view.bytes,
                     weight.view.bytes.size() / dtype_bytes(weight.view.dtype) - 1, 1, &last);
    }
  } catch (const Error&) {
  }
  return 0;
}
