#include "tool_calls/detect.h"

#include <gtest/gtest.h>

namespace metal_marlin {
namespace {

// A ChatML template that writes the calls of a message as `call` says, with `tool` the call and `loop` of them.
std::string template_of(const std::string& calls) {
  return "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.tool_calls %}" + calls +
         "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt "
         "%}<|im_start|>assistant\n"
         "{% endif %}";
}

std::string each(const std::string& call) {
  return "{% for call in m.tool_calls %}{% set f = call.function %}" + call + "{% endfor %}";
}

std::optional<DetectedTools> detect(const std::string& text) {
  return detect_tools(*ChatTemplate::from_text(text, "test"));
}

TEST(DetectTools, KnowsFormatsByWhatTemplatesWrite) {
  const std::string object = R"({"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}})";
  const std::string parameters =
      "{% for key, value in f.arguments.items() %}OPEN{{ key }}CLOSE{{ value if value is string else value | "
      "tojson }}END{% endfor %}";
  const auto with = [&](const std::string& open, const std::string& close, const std::string& end) {
    std::string text = parameters;
    text.replace(text.find("OPEN"), 4, open);
    text.replace(text.find("CLOSE"), 5, close);
    return text.replace(text.find("END"), 3, end);
  };
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"Qwen3/Hermes", each("{{ '\\n' if not loop.first }}<tool_call>\n" + object + "\n</tool_call>")},
      {"Qwen3-Coder", each("<tool_call>\n<function={{ f.name }}>\n" + with("<parameter=", ">\n", "\n</parameter>\n") +
                           "</function>\n</tool_call>")},
      {"GLM-4.7",
       each("<tool_call>{{ f.name }}" + with("<arg_key>", "</arg_key><arg_value>", "</arg_value>") + "</tool_call>")},
      {"GLM-4.5", each("\n<tool_call>{{ f.name }}" + with("\n<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>") +
                       "\n</tool_call>")},
      {"MiniMax M2", "<minimax:tool_call>\n" +
                         each("<invoke name=\"{{ f.name }}\">\n" + with("<parameter name=\"", "\">", "</parameter>\n") +
                              "</invoke>\n") +
                         "</minimax:tool_call>"},
      {"DeepSeek V3",
       "<｜tool▁calls▁begin｜>" +
           each("<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ f.name }}\n```json\n{{ f.arguments | tojson }}\n```"
                "<｜tool▁call▁end｜>") +
           "<｜tool▁calls▁end｜>"},
      {"Mistral (name)", each("[TOOL_CALLS]{{ f.name }}[ARGS]{{ f.arguments | tojson }}")},
      {"Mistral (list)", "[TOOL_CALLS][" + each("{{ ', ' if not loop.first }}" + object) + "]"},
      {"Kimi K2", "<|tool_calls_section_begin|>" +
                      each("<|tool_call_begin|>functions.{{ f.name }}:{{ loop.index0 }}<|tool_call_argument_begin|>"
                           "{{ f.arguments | tojson }}<|tool_call_end|>") +
                      "<|tool_calls_section_end|>"},
      {"Llama 3 JSON", each(R"({"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}})")},
      {"Llama 4 pythonic",
       "[" +
           each("{{ ', ' if not loop.first }}{{ f.name }}({% for key, value in f.arguments.items() %}"
                "{{ ', ' if not loop.first }}{{ key }}={{ value | tojson }}{% endfor %})") +
           "]"},
  };
  for (const auto& [name, calls] : cases) {
    const auto found = detect(template_of(calls));
    ASSERT_TRUE(found) << name;
    EXPECT_EQ(found->format.name, name);
    EXPECT_TRUE(found->is_known && found->is_rendered && found->takes_parallel && found->takes_null &&
                !found->takes_texts)
        << name;
  }
}

TEST(DetectTools, MakesAFormatOfObjectsBetweenDelimiters) {
  const auto found = detect(template_of(
      "<calls>\n" + each(R"(@@{"fn": "{{ f.name }}", "args": {{ f.arguments | tojson }}}!!;)") + "</calls>"));
  ASSERT_TRUE(found);
  EXPECT_FALSE(found->is_known);
  EXPECT_EQ(found->format.section_open, "<calls>\n");
  EXPECT_EQ(found->format.call_open, "@@");
  EXPECT_EQ(found->format.call_close, "!!;");
  EXPECT_EQ(found->format.section_close, "</calls>");
  EXPECT_EQ(found->format.name_key, "fn");
  EXPECT_EQ(found->format.arguments_key, "args");
}

TEST(DetectTools, FindsOutWhatATemplateTakes) {
  const std::string object = R"(<tool_call>
{"name": "{{ f.name }}", "arguments": {{ f.arguments }}}
</tool_call>)";
  const auto texts = detect(template_of(each(object)));
  ASSERT_TRUE(texts);
  EXPECT_TRUE(texts->takes_texts);
  const auto content = detect(template_of(
      "{{ m.content }}" +
      each("<tool_call>{\"name\": \"{{ f.name }}\", \"arguments\": {{ f.arguments | tojson }}}</tool_call>")));
  ASSERT_TRUE(content);
  EXPECT_FALSE(content->takes_null);
  const auto one = detect(template_of("{% if m.tool_calls | length > 1 %}{{ raise_exception('one') }}{% endif %}" +
                                      each("[TOOL_CALLS]{{ f.name }}[ARGS]{{ f.arguments | tojson }}")));
  ASSERT_TRUE(one);
  EXPECT_FALSE(one->takes_parallel);
}

TEST(DetectTools, KnowsWhatATemplateSpeaksOf) {
  EXPECT_EQ(detect("{# <tool_call> #}" + template_of("{{ raise_exception('no') }}"))->format.name, "Qwen3/Hermes");
  EXPECT_FALSE(detect("{# [TOOL_CAL #}" + template_of("{{ raise_exception('no') }}")));
  const auto kimi =
      detect("{# <|tool_calls_section_begin|><|tool_call_begin|> #}" + template_of("{{ raise_exception('no') }}"));
  ASSERT_TRUE(kimi);
  EXPECT_EQ(kimi->format.name, "Kimi K2");
  EXPECT_FALSE(kimi->is_rendered);
}

TEST(DetectTools, FindsNoneWhereThereAreNone) {
  EXPECT_FALSE(detect(template_of("")));
  EXPECT_FALSE(detect(template_of("{{ m.tool_calls }}")));
  EXPECT_FALSE(detect(template_of(each("I call {{ f.name }} with {{ f.arguments }}."))));
  EXPECT_FALSE(detect("{% for m in messages %}{{ m.content }}{% endfor %}"));
}

}  // namespace
}  // namespace metal_marlin
