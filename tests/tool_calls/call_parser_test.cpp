#include "tool_calls/call_parser.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tool_calls/format_called.h"

namespace metal_marlin {
namespace {

std::vector<ToolFunction> parsed_functions() {
  return {{"get_weather",
           R"({"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"},"units":)"
           R"({"enum":["C","F"]},"places":{"type":"array"},"exact":{"type":"boolean"},"when":)"
           R"({"anyOf":[{"type":"string"},{"type":"null"}]}}})",
           false},
          {"now", "", false}};
}

// What an answer comes to: its text, and its calls; those that broke off are text.
struct Answer {
  std::string text;
  std::string thought;
  std::vector<std::string> calls;  // NAME ARGUMENTS, with "..." where a call broke off
  std::string first_id;

  bool operator==(const Answer&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Answer& answer) {
  out << "text " << answer.text << "; thought " << answer.thought;
  for (const std::string& call : answer.calls) out << "; call " << call;
  return out;
}

void add(Answer& answer, const CallEvents& events) {
  for (const CallEvent& event : events) {
    switch (event.kind) {
      case CallEvent::Kind::kText: answer.text += event.text; break;
      case CallEvent::Kind::kThought: answer.thought += event.text; break;
      case CallEvent::Kind::kBegin:
        if (answer.calls.empty()) answer.first_id = event.id;
        answer.calls.push_back(event.name + " ");
        break;
      case CallEvent::Kind::kArguments: answer.calls.back() += event.text; break;
      case CallEvent::Kind::kEnd: answer.calls.back() += "."; break;
      case CallEvent::Kind::kBroken:
        answer.calls.back() += "...";
        answer.text += event.text;
        break;
    }
  }
}

Answer parse(const ToolFormat& format, const std::vector<std::string>& pieces, bool parallel = true) {
  const auto parser = CallParser::make(format, parsed_functions(), parallel);
  Answer answer;
  CallEvents events;
  for (const std::string& piece : pieces) {
    parser->push(piece, events);
    add(answer, std::exchange(events, {}));
  }
  parser->finish(events);
  add(answer, events);
  return answer;
}

// In one piece, in pieces of each size, and cut in two at every byte.
Answer parse_all_ways(const ToolFormat& format, const std::string& text, bool parallel = true) {
  const Answer whole = parse(format, {text}, parallel);
  for (std::size_t size = 1; size < text.size(); ++size) {
    std::vector<std::string> pieces;
    for (std::size_t at = 0; at < text.size(); at += size) pieces.push_back(text.substr(at, size));
    EXPECT_EQ(parse(format, pieces, parallel), whole) << format.name << ", in pieces of " << size << ": " << text;
    EXPECT_EQ(parse(format, {text.substr(0, size), text.substr(size)}, parallel), whole)
        << format.name << ", cut at " << size << ": " << text;
  }
  return whole;
}

Answer with_calls(std::vector<std::string> calls, std::string text = {}) {
  for (std::string& call : calls) call += call.ends_with("...") ? "" : ".";
  return {std::move(text), {}, std::move(calls), {}};
}

void expect(std::string_view format, const std::string& text, Answer expected) {
  const Answer found = parse_all_ways(format_called(format), text);
  expected.first_id = found.first_id;
  EXPECT_EQ(found, expected) << format << ": " << text;
}

TEST(CallParser, ReadsObjectsBetweenTags) {
  const std::string call = R"(<tool_call>
{"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}
</tool_call>)";
  const std::string read = R"(get_weather {"city": "Oslo", "days": 2})";
  expect("Qwen3/Hermes", call, with_calls({read}));
  expect("Qwen3/Hermes", "I look.\n\n" + call + "\n" + call + "\n", with_calls({read, read}, "I look."));
  expect("Qwen3/Hermes", call + "\nDone.", with_calls({read}, "Done."));
  // Members in another order, arguments as a text, none at all.
  expect("Qwen3/Hermes", R"(<tool_call>{"arguments":{"city":"Å\u00e5\n"},"name":"get_weather"}</tool_call>)",
         with_calls({R"(get_weather {"city":"Å\u00e5\n"})"}));
  expect("Qwen3/Hermes", R"(<tool_call>{"name":"get_weather","arguments":"{\"city\":\"Oslo\"}"}</tool_call>)",
         with_calls({R"(get_weather {"city":"Oslo"})"}));
  expect("Qwen3/Hermes", R"(<tool_call>{"name":"now"}</tool_call>)", with_calls({"now {}"}));
  // An answer may end in the place of the tag, or in its middle.
  expect("Qwen3/Hermes", R"(<tool_call>{"name":"now","arguments":{}})", with_calls({"now {}"}));
  expect("Qwen3/Hermes", R"(<tool_call>{"name":"now","arguments":{}}</tool)", with_calls({"now {}"}));
}

TEST(CallParser, ReadsNamesAndArguments) {
  expect("DeepSeek V3",
         "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>\n"
         "<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{\"city\":\"`\"}\n```<｜tool▁call▁end｜>"
         "<｜tool▁calls▁end｜>",
         with_calls({"now {}", R"(get_weather {"city":"`"})"}));
  expect("DeepSeek V3.1",
         "So.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
         with_calls({"now {}"}, "So."));
  expect("Mistral (name)", R"([TOOL_CALLS]now[ARGS]{}[TOOL_CALLS]get_weather[ARGS]{"days": 1})",
         with_calls({"now {}", R"(get_weather {"days": 1})"}));
  expect("Mistral (list)",
         R"([TOOL_CALLS][{"name": "now", "arguments": {}, "id": "abc123456"}, {"name": "now", "arguments": {}}])",
         with_calls({"now {}", "now {}"}));
  expect("Mistral (list)", R"([TOOL_CALLS] [{"name": "now", "arguments": {}}] and)", with_calls({"now {}"}, "and"));
  expect("Llama 3 functions", R"(<function=get_weather>{"city": "Oslo"}</function>)",
         with_calls({R"(get_weather {"city": "Oslo"})"}));
  expect("Cohere", R"(<|START_ACTION|>[
    {"tool_call_id": "0", "tool_name": "now", "parameters": {}}
]<|END_ACTION|>)",
         with_calls({"now {}"}));
  expect("Apertus", R"(<|tools_prefix|>[{"now": {}}, {"get_weather": {"days": 3}}]<|tools_suffix|>)",
         with_calls({"now {}", R"(get_weather {"days": 3})"}));
}

TEST(CallParser, TakesIdsThatTheModelWrites) {
  const Answer kimi = parse_all_ways(
      format_called("Kimi K2"),
      "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
      "<|tool_call_begin|>functions.get_weather:1<|tool_call_argument_begin|>{\"days\": 1}<|tool_call_end|>"
      "<|tool_calls_section_end|>");
  EXPECT_EQ(kimi.calls, (std::vector<std::string>{"now {}.", R"(get_weather {"days": 1}.)"}));
  EXPECT_EQ(kimi.first_id, "functions.now:0");
  EXPECT_EQ(parse_all_ways(format_called("Mistral (name)"), "[TOOL_CALLS]now[CALL_ID]abc123456[ARGS]{}").first_id,
            "abc123456");
  EXPECT_EQ(parse(format_called("Cohere"),
                  {R"(<|START_ACTION|>[{"tool_call_id": "7", "tool_name": "now", "parameters": {}}])"})
                .first_id,
            "7");
}

TEST(CallParser, ReadsParametersByTheirTypes) {
  const std::string read =
      R"(get_weather {"city": "Oslo \"N\"\nx", "days": 2, "places": [1, "a"], "exact": true, "when": null})";
  expect("Qwen3-Coder",
         "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo "
         "\"N\"\nx\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
         "<parameter=places>\n[1, \"a\"]\n</parameter>\n<parameter=exact>\nTrue\n</parameter>\n<parameter=when>\nnull\n"
         "</parameter>\n</function>\n</tool_call>",
         with_calls({read}));
  expect("GLM-4.7",
         "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Oslo \"N\"\nx</arg_value><arg_key>days</arg_key>"
         "<arg_value>2</arg_value><arg_key>places</arg_key><arg_value>[1, \"a\"]</arg_value><arg_key>exact</arg_key>"
         "<arg_value>true</arg_value><arg_key>when</arg_key><arg_value>null</arg_value></tool_call>",
         with_calls({read}));
  expect("GLM-4.5", "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>7</arg_value>\n</tool_call>",
         with_calls({R"(get_weather {"city": "7"})"}));
  expect("GLM-4.7", "<tool_call>now</tool_call><tool_call>now</tool_call>", with_calls({"now {}", "now {}"}));
  expect("MiniMax M2",
         "<minimax:tool_call>\n<invoke name=\"get_weather\">\n<parameter name=\"when\">7</parameter>\n</invoke>\n"
         "<invoke name=\"now\">\n</invoke>\n</minimax:tool_call>",
         with_calls({R"(get_weather {"when": "7"})", "now {}"}));
  expect("DeepSeek V3.2",
         "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"get_weather\">\n<｜DSML｜parameter name=\"units\" "
         "string=\"true\">5"
         "</｜DSML｜parameter>\n<｜DSML｜parameter name=\"city\" "
         "string=\"false\">5</｜DSML｜parameter>\n</｜DSML｜invoke>\n"
         "</｜DSML｜function_calls>",
         with_calls({R"(get_weather {"units": "5", "city": 5})"}));
  // What is not of its type is a text.
  expect("Seed-OSS",
         "<seed:tool_call>\n<function=get_weather>\n<parameter=days>two</parameter>\n</function>\n</seed:tool_call>",
         with_calls({R"(get_weather {"days": "two"})"}));
}

TEST(CallParser, ReadsLiterals) {
  expect("LFM2 pythonic",
         R"(<|tool_call_start|>[get_weather(city='O\'s"lo', days=-2, exact=True, when=None,), now()]<|tool_call_end|>)",
         with_calls({R"(get_weather {"city": "O's\"lo", "days": -2, "exact": true, "when": null})", "now {}"}));
  expect("Llama 4 pythonic", R"([get_weather(places=[{"a": 1.5e3, 'b': []}, "\x41\u00e9\q"])])",
         with_calls({R"(get_weather {"places": [{"a": 1.5e3, "b": []}, "A\u00e9\\q"]})"}));
  expect("Llama 4 pythonic", "<|python_start|>[now()]<|python_end|>", with_calls({"now {}"}));
  expect("Gemma 4",
         R"(<|tool_call>call:get_weather{city:<|"|>O"s\lo<|"|>,days:2,places:[1,{a:<|"|><|<|"|>}]}<tool_call|>)",
         with_calls({R"(get_weather {"city": "O\"s\\lo", "days": 2, "places": [1, {"a": "<|"}]})"}));
}

TEST(CallParser, TakesCallsAtTheBeginningAlone) {
  const std::string call = R"({"name": "get_weather", "parameters": {"city": "Oslo"}})";
  const std::string read = R"(get_weather {"city": "Oslo"})";
  expect("Llama 3 JSON", call, with_calls({read}));
  expect("Llama 3 JSON", "\n" + call + "; " + call, with_calls({read, read}));
  expect("Llama 3 JSON", "<|python_tag|>" + call, with_calls({read}));
  expect("Llama 3 JSON", "It is " + call, with_calls({}, "It is " + call));
  expect("Llama 3 JSON", R"({"name": "Anna"})", with_calls({}, R"({"name": "Anna"})"));
  expect("Llama 4 pythonic", "See [now()]", with_calls({}, "See [now()]"));
  expect("Llama 4 pythonic", "[1] says now", with_calls({}, "[1] says now"));
}

TEST(CallParser, LeavesWhatIsQuotedAlone) {
  const std::string call = R"(<tool_call>{"name": "now", "arguments": {}}</tool_call>)";
  for (const std::string& text : {"```\n" + call + "\n```", "~~~xml\na\n" + call, "`" + call + "`", "> " + call,
                                  "\"" + call + "\"", "a `b " + call, "    ```\n  " + call}) {
    expect("Qwen3/Hermes", text, with_calls({}, text));
  }
  expect("Qwen3/Hermes", "```\na\n```\n" + call, with_calls({"now {}"}, "```\na\n```"));
  expect("Qwen3/Hermes", "a `b` c " + call, with_calls({"now {}"}, "a `b` c"));
  expect("Qwen3/Hermes", "> a\n" + call, with_calls({"now {}"}, "> a"));
}

TEST(CallParser, GivesBackWhatIsNoCall) {
  for (const std::string& text :
       {std::string("<tool_call> is a tag, <tool_call"),
        std::string(R"(<tool_call>{"name": "other", "arguments": {}}</tool_call>)"), std::string("<tool_call>\n\n"),
        std::string(R"(<tool_call>{"name": 7}</tool_call>)"), std::string(R"(<tool_call>{"nam)"),
        std::string(R"(<tool_call>{"name": "now", "arguments": [1]}</tool_call>)"), std::string("a <"),
        std::string("a \n"), std::string(R"(<tool_call>{"name": "now", "arguments": "x"}</tool_call>)")}) {
    expect("Qwen3/Hermes", text, with_calls({}, text));
  }
  for (const std::string& text :
       {std::string("[TOOL_CALLS]"), std::string("[TOOL_CALLS]no such"), std::string("[TOOL_CALLS][ARGS]{}")})
    expect("Mistral (name)", text, with_calls({}, text));
  // Behind what is none there may be one.
  expect("Qwen3/Hermes", R"(<tool_call> or <tool_call>{"name": "now"}</tool_call>)",
         with_calls({"now {}"}, "<tool_call> or"));
}

TEST(CallParser, SaysWhichCallsBrokeOff) {
  const std::string cut = R"(<tool_call>{"name": "get_weather", "arguments": {"city": "Os)";
  expect("Qwen3/Hermes", cut, with_calls({R"(get_weather {"city": "Os...)"}, cut));
  const std::string wrong = R"(<tool_call>{"name": "get_weather", "arguments": {"city" "Oslo"}}</tool_call> so)";
  expect("Qwen3/Hermes", wrong, with_calls({R"(get_weather {"city" ...)"}, wrong));
  const std::string open = "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Oslo</arg_value>";
  expect("GLM-4.7", open, with_calls({R"(get_weather {"city": "Oslo"...)"}, open));
  // By what closes it, too; where nothing was told of it, it was none.
  const std::string closed =
      R"(<tool_call>{"name": "now", "arguments": {}}</tool_cell> <tool_call>{"name": "now"}</tool_call>)";
  expect("Qwen3/Hermes", closed,
         with_calls({"now {}...", "now {}"}, R"(<tool_call>{"name": "now", "arguments": {}}</tool_cell>)"));
  expect("GLM-4.7", open + "</tool_cell>", with_calls({R"(get_weather {"city": "Oslo"}...)"}, open + "</tool_cell>"));
  expect("Qwen3/Hermes", R"(<tool_call>{"name": "now"}</tool_cell>)",
         with_calls({}, R"(<tool_call>{"name": "now"}</tool_cell>)"));
  expect("GLM-4.7", "<tool_call>now</tool_cell>", with_calls({}, "<tool_call>now</tool_cell>"));
  // What was told of one is part of it, a delimiter within its texts too.
  const std::string within =
      R"(<|tools_prefix|>[{"get_weather": {"city: <|tools_prefix|>[{"now": {}}]<|tools_suffix|>)";
  expect("Apertus", within, with_calls({R"(get_weather {"city: <|tools_prefix|>[{"...)"}, within));
}

TEST(CallParser, ReadsChannels) {
  const std::string thought = "<|channel|>analysis<|message|>I think.<|end|>";
  const std::string call =
      "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>";
  const std::string arguments = R"({"city": "Oslo"})";
  Answer expected = with_calls({"get_weather " + arguments});
  expected.thought = "I think.";
  expect("gpt-oss harmony", thought + call + arguments, expected);
  expect("gpt-oss harmony", thought + call + arguments + "<|call|>", expected);
  expect("gpt-oss harmony", " to=functions.get_weather<|channel|>commentary json<|message|>" + arguments + "<|call|>",
         with_calls({"get_weather " + arguments}));
  Answer text = with_calls({}, "Four.");
  text.thought = "I think.";
  expect("gpt-oss harmony", thought + "<|start|>assistant<|channel|>final<|message|>Four.<|return|>", text);
  expect("gpt-oss harmony", "<|channel|>commentary<|message|>I look.<|end|>" + call + arguments,
         with_calls({"get_weather " + arguments}, "I look."));
  expect("gpt-oss harmony", "Plain < text.", with_calls({}, "Plain < text."));
  const std::string unknown = "<|channel|>commentary to=functions.other <|constrain|>json<|message|>";
  expect("gpt-oss harmony", unknown + "{}<|call|>", with_calls({}, unknown + "{}"));
  expect("gpt-oss harmony", call + R"({"city" 7})", with_calls({R"(get_weather {"city" ...)"}, call + R"({"city" 7})"));
}

TEST(CallParser, DropsWhatFollowsTheOnlyCall) {
  const std::string call = R"(<tool_call>{"name": "now"}</tool_call>)";
  EXPECT_EQ(parse_all_ways(format_called("Qwen3/Hermes"), call + "\n" + call + "\nmore", false).calls,
            (std::vector<std::string>{"now {}."}));
  const std::string message = "<|start|>assistant<|channel|>commentary to=functions.now<|message|>{}<|call|>";
  EXPECT_EQ(parse_all_ways(format_called("gpt-oss harmony"), message + message, false).calls,
            (std::vector<std::string>{"now {}."}));
}

TEST(CallParser, HoldsBackOnlyWhatMayBecomeACall) {
  const auto parser = CallParser::make(format_called("Qwen3/Hermes"), parsed_functions(), true);
  CallEvents events;
  const auto pushed = [&](const std::string& text) {
    events.clear();
    parser->push(text, events);
    Answer answer;
    answer.calls.emplace_back();  // for arguments of a call that began before
    add(answer, events);
    return answer.text + answer.calls.back();
  };
  EXPECT_EQ(pushed("a <tool"), "a");
  EXPECT_EQ(pushed("s>"), " <tools>");
  EXPECT_EQ(pushed("b\n"), "b");
  EXPECT_EQ(pushed("<tool_call>{\"name\":"), "");
  EXPECT_EQ(pushed("\"get_weather\",\"arguments\":{\"city\":\"Os"), "get_weather {\"city\":\"Os");
  EXPECT_EQ(pushed("lo"), "lo");
  EXPECT_EQ(pushed("\"}"), "\"}");
}

TEST(CallParser, MakesArgumentsOfWhichEveryBeginningBeginsJson) {
  // Deeper than JSON is read here, it is no call any more.
  const std::string deep = R"(<tool_call>{"name":"now","arguments":{"a":)" + std::string(100, '[');
  EXPECT_EQ(parse_all_ways(format_called("Qwen3/Hermes"), deep).text, deep);
  const Answer control = parse(format_called("Qwen3/Hermes"),
                               {"<tool_call>{\"name\":\"now\",\"arguments\":{\"a\":\"b\n\tc\"}}</tool_call>"});
  EXPECT_EQ(control.calls, (std::vector<std::string>{"now {\"a\":\"b\\n\\u0009c\"}."}));
  for (const char* const value : {"01", "1.", ".5", "+1", "tru", "nul", "1e", "'a'", "True"}) {
    const std::string text = std::string(R"(<tool_call>{"name":"now","arguments":{"a":)") + value + "}}</tool_call>";
    EXPECT_EQ(parse_all_ways(format_called("Qwen3/Hermes"), text).text, text);
  }
  for (const char* const value :
       {"0", "-0.5E+3", "[]", "{}", "[ 1 , {\"b\" : null } ]", "\"\\ud83d\\ude00\"", "\"\\\\\"", "true"}) {
    const std::string text = std::string(R"(<tool_call>{"name":"now","arguments":{"a":)") + value + "}}</tool_call>";
    EXPECT_EQ(parse_all_ways(format_called("Qwen3/Hermes"), text).calls.at(0),
              std::string("now {\"a\":") + value + "}.");
  }
}

}  // namespace
}  // namespace metal_marlin
