// Arbitrary bytes as tokenizer.json and as each of the files beside it; what is decoded in parts is what is decoded
// whole.
#include "attempt.h"
#include "base/unicode.h"
#include "metal_marlin/error.h"
#include "metal_marlin/tokenizer.h"
#include "tokenizer/tokenizer_config.h"

namespace {

using namespace metal_marlin;

void decode_both_ways(const std::shared_ptr<const Tokenizer>& tokenizer, const std::vector<TokenId>& ids) {
  Detokenizer stream(tokenizer);
  std::string streamed;
  for (const TokenId id : ids) {
    const std::string piece = stream.push(id);
    if (!is_valid_utf8(piece)) __builtin_trap();
    streamed += piece;
  }
  if (streamed + stream.finish() != tokenizer->decode(ids)) __builtin_trap();
}

// Words, from whose text spaces before punctuation may go.
void run_with_config(std::string_view config) {
  constexpr std::string_view kTokenizer =
      R"({"model":{"type":"WordLevel","unk_token":"n","vocab":{"a":0,"<s>":1,"n":2,"'":3,"t":4,".":5,"n't":6,"re":7}}})";
  const auto tokenizer = Tokenizer::from_json(kTokenizer, "input", config);
  std::vector<TokenId> ids = tokenizer->encode("a<s>a");
  for (const TokenId id : {0, 2, 3, 4, 3, 3, 7, 2, 6, 5, 5, 3, 2, 3, 4, 0}) ids.push_back(id);
  decode_both_ways(tokenizer, ids);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  attempt([&] {
    const auto tokenizer = Tokenizer::from_json(text, "input");
    std::vector<TokenId> ids = tokenizer->encode(" Hello \xC3\xA9\xFF <s> 123\n\n  x\xE4\xB8\x96 aaaaaaaaaaaaaaaa");
    for (TokenId id = 0; id < 64; ++id) ids.push_back(id);
    decode_both_ways(tokenizer, ids);
  });
  attempt([&] { run_with_config(text); });
  attempt([&] { run_with_config(join_tokenizer_config({}, text, R"({"<t>": 9})", "input")); });
  attempt([&] { run_with_config(join_tokenizer_config(R"({"eos_token": "a"})", {}, text, "input")); });
  return 0;
}
