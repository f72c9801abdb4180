// Templates against what jinja2 makes of them, by tools/make_chat_template_vectors.py.
#include "metal_marlin/chat_template.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "chat_template/template_source.h"
#include "metal_marlin/error.h"
#include "test_data.h"

namespace metal_marlin {
namespace {

using nlohmann::ordered_json;

ordered_json read_vectors() {
  return ordered_json::parse(std::ifstream(test_data("chat_template/vectors.json")));
}

std::chrono::local_seconds vectors_time() {
  using namespace std::chrono_literals;
  return std::chrono::local_days(std::chrono::year_month_day(2026y / 3 / 4)) + 5h + 6min + 7s;
}

ChatOptions options_of(const ordered_json& context) {
  ChatOptions options;
  options.now = vectors_time();
  for (const auto& [name, value] : context.items()) options.variables.emplace_back(name, value.dump());
  return options;
}

// What a template prints, or what it fails with.
struct Outcome {
  std::string text;
  bool failed = false;
};

Outcome outcome(const std::string& text, const ordered_json& context) {
  try {
    return {ChatTemplate::from_text(text, "t")->render("[]", options_of(context))};
  } catch (const Error& error) {
    return {error.what(), true};
  }
}

std::string render(const std::string& text, const std::string& messages = "[]", const ChatOptions& options = {}) {
  return ChatTemplate::from_text(text, "t")->render(messages, options);
}

std::string failure(const std::string& text) {
  const Outcome found = outcome(text, ordered_json::object());
  EXPECT_TRUE(found.failed) << text << " gave " << found.text;
  return found.text;
}

TEST(ChatTemplate, DoesAsJinja2) {
  const ordered_json vectors = read_vectors();
  ASSERT_GT(vectors["cases"].size(), 900U);
  for (const auto& entry : vectors["cases"]) {
    const std::string text = entry["template"];
    const Outcome found = outcome(text, vectors["contexts"][entry["context"].get<std::string>()]);
    if (entry.contains("output")) {
      EXPECT_FALSE(found.failed) << text << " failed: " << found.text;
      EXPECT_EQ(found.text, entry["output"].get<std::string>()) << text;
      continue;
    }
    const std::string error = entry["error"];
    EXPECT_TRUE(found.failed) << text << " gave " << found.text << ", expected " << error;
    if (entry["kind"] == "python") continue;  // its messages are not part of the language
    EXPECT_TRUE(found.text.ends_with(": " + error)) << text << "\n" << found.text << "\n" << error;
  }
}

TEST(ChatTemplate, NamesFileAndLineOfErrors) {
  EXPECT_EQ(failure("a\n{{ raise_exception('no') }}"), "t, line 2: no");
  EXPECT_EQ(failure("\n\n{% if %}"), "t, line 3: Expected an expression, got 'end of statement block'");
  EXPECT_EQ(failure("{{ x.y }}"), "t, line 1: 'x' is undefined");
  EXPECT_THROW(render("\xFF"), Error);
}

TEST(ChatTemplate, RefusesWhatTakesTooMuch) {
  EXPECT_TRUE(failure("{{ 'x' * 10000000000 }}").ends_with("a value of more than 512 MiB"));
  EXPECT_TRUE(failure("{{ 'x' * 70000000 }}").ends_with("more than 64 MiB of output"));
  EXPECT_TRUE(failure("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}")
                  .ends_with("more than 20000000 steps"));
  EXPECT_TRUE(failure("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}").find("nested more than") != std::string::npos);
  EXPECT_TRUE(failure("{% set n = namespace(x=[]) %}{% for i in range(1000) %}{% set n.x = [n.x] %}{% endfor %}")
                  .ends_with("values nested more than 400 deep"));
  EXPECT_TRUE(failure("{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}").ends_with(" deep"));
  EXPECT_TRUE(failure("{{ 9223372036854775807 + 1 }}").ends_with("an integer beyond 64 bits"));
  EXPECT_TRUE(failure("{{ 9223372036854775808 }}").ends_with("the integer 9223372036854775808 is beyond 64 bits"));
  EXPECT_TRUE(failure("{{ [1]|random }}").ends_with("the filters pprint, random, urlize and wordwrap"));
  EXPECT_TRUE(failure("{% autoescape true %}{% endautoescape %}").ends_with("autoescape, other than false"));
}

TEST(ChatTemplate, NamespacesMayHoldEachOther) {
  EXPECT_EQ(render("{% set a = namespace() %}{% set a.a = a %}{{ a.a.a is defined }}"), "True");
  EXPECT_TRUE(failure("{% set a = namespace() %}{% set a.a = a %}{{ a }}").ends_with("recursion depth exceeded"));
}

TEST(ChatTemplate, ReadsMessagesAndTools) {
  const std::string text =
      "{{ messages[0].content }}|{{ tools }}|{{ documents }}|{{ add_generation_prompt }}|{{ bos_token }}";
  EXPECT_EQ(render(text, R"([{"content": "a"}])"), "a|None|None|True|");
  ChatOptions options;
  options.tools = R"([{"b": 1, "a": 2.0}])";
  options.add_generation_prompt = false;
  options.bos = "<s>";
  EXPECT_EQ(render(text, R"([{"content": "a"}])", options), "a|[{'b': 1, 'a': 2.0}]|None|False|<s>");
  options.variables = {{"bos_token", "\"x\""}};
  EXPECT_EQ(render("{{ bos_token }}", "[]", options), "x");
  EXPECT_THROW(render(text, "{}"), Error);
  EXPECT_THROW(render(text, "[1"), Error);
  EXPECT_THROW(render(text, "[99999999999999999999]"), Error);
}

TEST(ChatTemplate, ContinuesTheFinalMessage) {
  ChatOptions options;
  options.add_generation_prompt = false;
  options.continue_final_message = true;
  const std::string text = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>{% endfor %}";
  EXPECT_EQ(render(text, R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "so "}])", options),
            "<user>q</><assistant>so");
  EXPECT_THROW(render(text, R"([{"role": "user"}])", options), Error);
  EXPECT_THROW(render("nothing", R"([{"role": "user", "content": "q"}])", options), Error);
}

TEST(ChatTemplate, TakesTheTemplateOfAFolder) {
  const auto folder = std::filesystem::path(testing::TempDir()) / "chat_template_folder";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  const auto write = [&](const char* name, const std::string& text) { std::ofstream(folder / name) << text; };
  EXPECT_THROW(ChatTemplate::load(folder), Error);
  write("special_tokens_map.json", R"({"bos_token": "x", "pad_token": {"content": "<p>"}})");
  write("tokenizer_config.json", R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "add_bos_token": true,
      "chat_template": [{"name": "default", "template": "D{{ bos_token }}{{ eos_token }}{{ pad_token }}"},
                        {"name": "tool_use", "template": "T"}, {"name": "rag", "template": "R"}]})");
  EXPECT_EQ(ChatTemplate::load(folder)->render("[]"), "D<s></s><p>");
  EXPECT_EQ(ChatTemplate::load(folder, "rag")->render("[]"), "R");
  EXPECT_THROW(ChatTemplate::load(folder, "none"), Error);
  ChatOptions options;
  options.tools = "[]";
  EXPECT_EQ(ChatTemplate::load(folder)->render("[]", options), "T");
  write("chat_template.json", R"({"chat_template": "J{{ eos_token }}"})");
  EXPECT_EQ(ChatTemplate::load(folder)->render("[]"), "J</s>");
  write("chat_template.jinja", "F{{ bos_token }}\n");
  EXPECT_EQ(ChatTemplate::load(folder)->render("[]"), "F<s>");
  write("chat_template.jinja", "<!DOCTYPE html>\n<html>");
  expect_error(ErrorCode::kCorruptFile, "chat_template.jinja: is a web page", [&] { ChatTemplate::load(folder); });
  write("tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_THROW(ChatTemplate::load(folder), Error);
}

// A GGUF array of strings, as it lies in a file.
std::string string_array(const std::vector<std::string>& texts) {
  std::string out;
  for (const std::string& text : texts) {
    const std::uint64_t size = text.size();
    out.append(reinterpret_cast<const char*>(&size), sizeof size).append(text);
  }
  return out;
}

TEST(ChatTemplate, TakesTheTemplatesOfAGguf) {
  const std::string names = string_array({"tool_use", "rag"});
  const std::string tokens = string_array({"<s>", "</s>", "x"});
  const auto array = [](const std::string& bytes, std::uint64_t count) {
    return GgufArray{kGgufString, count, std::as_bytes(std::span(bytes))};
  };
  Gguf gguf;
  gguf.where = "m.gguf";
  expect_error(ErrorCode::kNotFound, "m.gguf: the model has no chat template",
               [&] { static_cast<void>(gguf_template_source(gguf).find("default")); });
  gguf.values = {{"tokenizer.chat_template", std::string_view("D")},
                 {"tokenizer.chat_templates", array(names, 2)},
                 {"tokenizer.chat_template.tool_use", std::string_view("T")},
                 {"tokenizer.chat_template.rag", std::string_view("R")},
                 {"tokenizer.ggml.tokens", array(tokens, 3)},
                 {"tokenizer.ggml.bos_token_id", std::uint64_t{0}},
                 {"tokenizer.ggml.eos_token_id", std::uint64_t{1}},
                 {"tokenizer.ggml.padding_token_id", std::uint64_t{9}}};
  const TemplateSource source = gguf_template_source(gguf);
  EXPECT_EQ(source.find("default").text, "D");
  EXPECT_EQ(source.find("tool_use").text, "T");
  EXPECT_EQ(source.find("rag").text, "R");
  expect_error(ErrorCode::kNotFound, "no chat template x; there are default, tool_use, rag",
               [&] { static_cast<void>(source.find("x")); });
  const std::vector<std::pair<std::string, std::string>> expected = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  EXPECT_EQ(source.tokens, expected);
}

}  // namespace
}  // namespace metal_marlin
