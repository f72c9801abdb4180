// Arbitrary bytes as the file of a sequence, of a model with an adapter.
#include "attempt.h"
#include "runtime/sequence_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace metal_marlin;
  ModelIdentity model;
  model.fields = {{"architecture", "qwen3"}, {"kv_cache", "f16"}};
  model.adapters = {{"one", "0123456789abcdef"}};
  model.vocab = 100;
  model.page_bytes = 8;
  attempt([&] {
    const SavedSequence saved = parse_sequence(std::as_bytes(std::span(data, size)), model, "input");
    if (saved.size != (saved.tokens.size() + 15) / 16 * model.page_bytes || saved.tokens.empty()) __builtin_trap();
  });
  return 0;
}
