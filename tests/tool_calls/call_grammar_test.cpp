#include "tool_calls/call_grammar.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "metal_marlin/error.h"
#include "tool_calls/call_parser.h"
#include "tool_calls/format_called.h"

namespace metal_marlin {
namespace {

const std::vector<ToolFunction>& grammar_functions() {
  static const std::vector<ToolFunction> all = {
      {"get_weather",
       R"({"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer","maximum":9}},"required":["city"],)"
       R"("additionalProperties":false})",
       false},
      {"now", R"({"type":"object","additionalProperties":false})", false}};
  return all;
}

// A call of each function, in each known format, as its grammar has it.
const std::vector<std::pair<std::string, std::vector<std::string>>>& written_calls() {
  static const std::vector<std::pair<std::string, std::vector<std::string>>> all = {
      {"gpt-oss harmony",
       {"<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\": \"Oslo\", \"days\": 2}",
        "<|channel|>analysis<|message|>I < think<|end|><|start|>assistant<|channel|>commentary to=functions.now "
        "<|constrain|>json<|message|>{}"}},
      {"Kimi K2",
       {"<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{\"city\":"
        "\"Oslo\"}"
        "<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
        "<|tool_calls_section_end|>"}},
      {"DeepSeek V3",
       {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><"
        "｜tool▁calls▁end｜>"}},
      {"DeepSeek V3.1",
       {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"}},
      {"DeepSeek V3.2",
       {"<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"get_weather\">\n<｜DSML｜parameter name=\"city\" "
        "string=\"true\">a<b"
        "</｜DSML｜parameter>\n<｜DSML｜parameter name=\"days\" "
        "string=\"false\">7</｜DSML｜parameter>\n</｜DSML｜invoke>\n"
        "</｜DSML｜function_calls>"}},
      {"Gemma 4",
       {"<|tool_call>call:get_weather{city:<|\"|>Os<|lo<|\"|>,days:3}<tool_call|><|tool_call>call:now{}<tool_call|>"}},
      {"MiniMax M2",
       {"<minimax:tool_call>\n<invoke name=\"get_weather\">\n<parameter "
        "name=\"city\"></para</parameter>\n</invoke>\n<invoke "
        "name=\"now\">\n</invoke>\n</minimax:tool_call>"}},
      {"Qwen3-Coder",
       {"<tool_call>\n<function=get_weather>\n<parameter=city>\nOs\nlo\n</parameter>\n<parameter=days>\n-4\n</"
        "parameter>\n"
        "</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>"}},
      {"GLM-4.7",
       {"<tool_call>get_weather<arg_key>city</arg_key><arg_value>Oslo</arg_value></tool_call><tool_call>now</"
        "tool_call>"}},
      {"GLM-4.5", {"<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call>"}},
      {"Mistral (name)", {"[TOOL_CALLS]get_weather[ARGS]{\"city\":\"[TOOL\"}[TOOL_CALLS]now[ARGS]{}"}},
      {"Mistral (list)",
       {"[TOOL_CALLS][{\"name\": \"now\", \"arguments\": {}}, {\"name\": \"now\", \"arguments\": {}}]"}},
      {"Qwen3/Hermes",
       {"<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": "
        "\"Oslo\"}}\n</tool_call>\n<tool_call>\n{\"name\": "
        "\"now\", \"arguments\": {}}\n</tool_call>"}},
      {"LFM2 pythonic", {"<|tool_call_start|>[get_weather(city=\"O's\", days=1), now()]<|tool_call_end|>"}},
      {"Llama 4 pythonic", {"[now()]"}},
      {"Llama 3 JSON", {"{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Oslo\"}}"}},
      {"Llama 3 functions", {"<function=now>{}</function>"}},
      {"Apertus", {"<|tools_prefix|>[{\"now\": {}}]<|tools_suffix|>"}},
  };
  return all;
}

std::size_t calls_in(const ToolFormat& format, const std::string& text) {
  const auto parser = CallParser::make(format, grammar_functions(), true);
  CallEvents events;
  parser->push(text, events);
  parser->finish(events);
  return static_cast<std::size_t>(
      std::count_if(events.begin(), events.end(), [](const CallEvent& e) { return e.kind == CallEvent::Kind::kEnd; }));
}

TEST(CallGrammar, HasCallsThatItsParserReads) {
  for (const auto& [name, texts] : written_calls()) {
    const ToolFormat& format = format_called(name);
    const auto grammar = call_grammar(format, grammar_functions(), {});
    for (const std::string& text : texts) {
      EXPECT_TRUE(grammar->matches(text)) << name << ": " << text;
      EXPECT_GT(calls_in(format, text), 0U) << name << ": " << text;
      EXPECT_FALSE(grammar->matches(text + "x")) << name;
      EXPECT_FALSE(grammar->matches("x" + text)) << name;
    }
    EXPECT_FALSE(grammar->matches("")) << name;
  }
}

TEST(CallGrammar, HoldsArgumentsToTheirSchema) {
  const auto matches = [](std::string_view format, const std::string& text) {
    return call_grammar(format_called(format), grammar_functions(), {})->matches(text);
  };
  EXPECT_FALSE(matches("Qwen3/Hermes", "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {}}\n</tool_call>"));
  EXPECT_FALSE(matches("Qwen3/Hermes", "<tool_call>\n{\"name\": \"other\", \"arguments\": {}}\n</tool_call>"));
  EXPECT_FALSE(matches("GLM-4.7", "<tool_call>get_weather</tool_call>"));
  EXPECT_FALSE(matches("GLM-4.7",
                       "<tool_call>get_weather<arg_key>city</arg_key><arg_value>a</arg_value><arg_key>days</arg_key>"
                       "<arg_value>10</arg_value></tool_call>"));
  EXPECT_FALSE(matches("Llama 4 pythonic", "[get_weather(days=1)]"));
  EXPECT_FALSE(matches("Gemma 4", "<|tool_call>call:get_weather{,days:1}<tool_call|>"));
  // Members that may be left out, in each way.
  const std::vector<ToolFunction> optional = {
      {"f",
       R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"integer"},"c":{"type":"integer"}},"required":["b"]})",
       false}};
  const auto grammar = call_grammar(format_called("Llama 4 pythonic"), optional, {});
  for (const char* const text : {"[f(b=1)]", "[f(a=1, b=2)]", "[f(b=1, c=2)]", "[f(a=1, b=2, c=3)]"})
    EXPECT_TRUE(grammar->matches(text));
  for (const char* const text : {"[f()]", "[f(a=1)]", "[f(a=1, c=2)]", "[f(, b=1)]", "[f(b=1, )]"})
    EXPECT_FALSE(grammar->matches(text));
}

TEST(CallGrammar, HasOneCallWhereMoreMayNotBe) {
  const std::string call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
  const auto grammar = call_grammar(format_called("Qwen3/Hermes"), grammar_functions(), {.parallel = false});
  EXPECT_TRUE(grammar->matches(call));
  EXPECT_FALSE(grammar->matches(call + "\n" + call));
}

TEST(CallGrammar, LeavesTextFreeUpToACall) {
  const std::string call = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";
  const auto grammar = call_grammar(format_called("Qwen3/Hermes"), grammar_functions(), {.free_text = true});
  for (const std::string& text :
       {std::string(), std::string("Some <tool_cal <<tool_ text <"), "Some text.\n" + call, call})
    EXPECT_TRUE(grammar->matches(text)) << text;
  for (const std::string& text :
       {std::string("<tool_call> x"), "a" + call + "b", std::string("<tool_call>\n{\"name\": \"other\"")})
    EXPECT_FALSE(grammar->matches(text)) << text;
  EXPECT_FALSE(has_free_text(format_called("Llama 3 JSON")));
  EXPECT_FALSE(has_free_text(format_called("gpt-oss harmony")));
}

TEST(CallGrammar, RefusesWhatItCannotSay) {
  const auto refused = [](const std::string& parameters, bool strict = false) {
    try {
      call_grammar(format_called("GLM-4.7"), {{"f", parameters, strict}}, {});
      return std::string();
    } catch (const Error& error) {
      return std::string(error.what());
    }
  };
  EXPECT_NE(refused(R"({"type":"array"})").find("parameters of f: type is \"array\""), std::string::npos);
  EXPECT_NE(refused(R"({"type":"object","properties":{"a":{"type":"integer","if":{}}}})").find("parameters of f.a"),
            std::string::npos);
  const std::string bounded = R"({"type":"object","properties":{"a":{"type":"string","maxLength":3}}})";
  EXPECT_EQ(refused(bounded), "");
  EXPECT_NE(refused(bounded, true).find("maxLength"), std::string::npos);
  const std::string chosen =
      R"({"type":"object","properties":{"a":{"enum":["x","y"]},"b":{"type":"string","pattern":"^[ab]+$"}},"required":["a","b"]})";
  const auto grammar = call_grammar(format_called("GLM-4.7"), {{"f", chosen, true}}, {});
  const auto call = [](const std::string& a, const std::string& b) {
    return "<tool_call>f<arg_key>a</arg_key><arg_value>" + a + "</arg_value><arg_key>b</arg_key><arg_value>" + b +
           "</arg_value></tool_call>";
  };
  EXPECT_TRUE(grammar->matches(call("x", "abba")));
  EXPECT_FALSE(grammar->matches(call("z", "abba")));
  EXPECT_FALSE(grammar->matches(call("x", "abc")));
}

}  // namespace
}  // namespace metal_marlin
