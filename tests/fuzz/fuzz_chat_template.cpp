// Arbitrary bytes as a chat template, over a conversation with everything in it.
#include "attempt.h"
#include "base/unicode.h"
#include "metal_marlin/chat_template.h"
#include "metal_marlin/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace metal_marlin;
  if (size > 4096) return 0;  // a template of any length is allowed its steps, which take seconds
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  attempt([&] {
    ChatOptions options;
    options.tools = R"([{"type": "function", "function": {"name": "f", "parameters": {"type": "object",
        "properties": {"a": {"type": "string", "enum": ["x", "y"]}}, "required": ["a"]}}}])";
    options.variables = {{"n", "7"},         {"f", "2.5"},
                         {"t", "true"},      {"d", R"({"b": 1, "a": [1, 2, {"c": null}]})"},
                         {"l", "[3, 1, 2]"}, {"s", R"("Größe 日本 😀\n")"}};
    options.bos = "<s>";
    options.now = std::chrono::local_seconds(std::chrono::seconds(1'000'000'000));
    const std::string prompt =
        ChatTemplate::from_text(text, "input")
            ->render(
                R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": null, "tool_calls": [{"function":
            {"name": "f", "arguments": {"a": "x"}}}]}, {"role": "tool", "content": [{"type": "text", "text": "é"}]}])",
                options);
    if (!is_valid_utf8(prompt)) __builtin_trap();
  });
  return 0;
}
