// Arbitrary bytes as config.json.
#include <nlohmann/json.hpp>

#include "attempt.h"
#include "io/json.h"
#include "metal_marlin/error.h"
#include "models/config.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace metal_marlin;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  attempt([&] {
    const Json json = parse_json(text, "input");
    attempt([&] { parse_model_config(json, nullptr, "input"); });
  });
  return 0;
}
