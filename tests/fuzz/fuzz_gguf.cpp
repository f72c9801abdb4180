// Arbitrary bytes as a GGUF file: container, metadata, tokenizer, tensors.
#include <nlohmann/json.hpp>

#include "attempt.h"
#include "io/gguf.h"
#include "io/gguf_blocks.h"
#include "io/gguf_model.h"
#include "io/gguf_tokenizer.h"
#include "metal_marlin/error.h"
#include "metal_marlin/tokenizer.h"
#include "models/config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace metal_marlin;
  attempt([&] {
    const Gguf gguf = parse_gguf(std::as_bytes(std::span(data, size)), "input");
    attempt([&] { parse_model_config(gguf_config_json(gguf), nullptr, "input"); });
    attempt([&] {
      static_cast<void>(Tokenizer::from_json(gguf_tokenizer_json(gguf).dump(), "input")->encode("Hello, world 123"));
    });
    for (const auto& entry : gguf.tensors) {
      const GgufTensor& tensor = entry.second;
      attempt([&] {
        const std::string& stored = entry.first;
        if (const auto name = gguf_tensor_name(gguf_architecture(gguf), stored))
          static_cast<void>(gguf_weights(gguf, stored, *name, tensor));
      });
      if (tensor.bytes.empty() || tensor.shape.empty()) continue;
      const std::int64_t cols = tensor.shape.back();
      std::vector<float> row(static_cast<std::size_t>(cols));
      attempt([&] {
        gguf_decode_row(tensor.type, tensor.bytes.first(gguf_row_bytes(tensor.type, cols)), cols, row.data());
      });
    }
  });
  return 0;
}
