// Arbitrary bytes as tokenizer.json and as tokenizer_config.json; what is decoded in parts is what is decoded whole.
#include "attempt.h"
#include "base/unicode.h"
#include "metal_marlin/error.h"
#include "metal_marlin/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace metal_marlin;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  attempt([&] {
    const auto tokenizer = Tokenizer::from_json(text, "input");
    std::vector<TokenId> ids = tokenizer->encode(" Hello \xC3\xA9\xFF <s> 123\n\n  x\xE4\xB8\x96 aaaaaaaaaaaaaaaa");
    for (TokenId id = 0; id < 64; ++id) ids.push_back(id);
    Detokenizer stream(tokenizer);
    std::string streamed;
    for (const TokenId id : ids) {
      const std::string piece = stream.push(id);
      if (!is_valid_utf8(piece)) __builtin_trap();
      streamed += piece;
    }
    if (streamed + stream.finish() != tokenizer->decode(ids)) __builtin_trap();
  });
  attempt([&] {
    constexpr std::string_view kTokenizer = R"({"model":{"type":"BPE","vocab":{"a":0,"<s>":1},"merges":[]}})";
    static_cast<void>(Tokenizer::from_json(kTokenizer, "input", text)->encode("a<s>a"));
  });
  return 0;
}
