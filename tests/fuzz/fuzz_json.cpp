// Arbitrary bytes as config.json and as tokenizer.json.
#include <nlohmann/json.hpp>

#include "attempt.h"
#include "io/json.h"
#include "metal_marlin/error.h"
#include "metal_marlin/tokenizer.h"
#include "models/config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace metal_marlin;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  attempt([&] {
    const Json json = parse_json(text, "input");
    attempt([&] { parse_model_config(json, nullptr, "input"); });
  });
  attempt([&] {
    const auto tokenizer = Tokenizer::from_json(text, "input");
    const auto ids = tokenizer->encode("Hello \xC3\xA9\xFF <s> 123\n\n  x");
    static_cast<void>(tokenizer->decode(ids));
  });
  return 0;
}
