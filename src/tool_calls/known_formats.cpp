#include <array>

#include "tool_calls/tool_format.h"

namespace metal_marlin {
namespace {

ToolFormat object_format(std::string name, std::string open, std::string close, std::string separator) {
  ToolFormat format;
  format.name = std::move(name);
  format.call_open = std::move(open);
  format.call_close = std::move(close);
  format.separator = std::move(separator);
  return format;
}

ToolFormat named_format(std::string name, std::string open, std::string name_close, std::string close) {
  ToolFormat format = object_format(std::move(name), std::move(open), std::move(close), {});
  format.kind = CallKind::kNamed;
  format.name_close = std::move(name_close);
  return format;
}

ToolFormat in_section(ToolFormat format, std::string open, std::string close, std::string separator = {}) {
  format.section_open = std::move(open);
  format.section_close = std::move(close);
  format.separator = std::move(separator);
  return format;
}

ToolFormat in_list(ToolFormat format, std::string open, std::string close, std::string separator) {
  format.list_open = std::move(open);
  format.list_close = std::move(close);
  format.separator = std::move(separator);
  return format;
}

ToolFormat with_parameters(ToolFormat format, std::string open, std::string close, std::string value_close) {
  format.kind = CallKind::kParameters;
  format.key_open = std::move(open);
  format.key_close = std::move(close);
  format.value_close = std::move(value_close);
  return format;
}

ToolFormat harmony() {
  ToolFormat format;
  format.name = "gpt-oss harmony";
  format.kind = CallKind::kHarmony;
  format.name_prefix = "functions.";
  return format;
}

ToolFormat kimi() {
  ToolFormat format =
      in_section(named_format("Kimi K2", "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
                 "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>");
  format.name_prefix = "functions.";
  format.is_indexed = true;
  return format;
}

ToolFormat deepseek_tags(const char* name, const char* section) {
  const std::string open = std::string("<｜DSML｜") + section + ">\n";
  ToolFormat format = in_section(named_format(name, "<｜DSML｜invoke name=\"", "\">\n", "</｜DSML｜invoke>\n"), open,
                                 std::string("</｜DSML｜") + section + ">");
  format =
      with_parameters(std::move(format), "<｜DSML｜parameter name=\"", "\" string=\"true\">", "</｜DSML｜parameter>\n");
  format.json_key_close = "\" string=\"false\">";
  return format;
}

ToolFormat mistral_named() {
  ToolFormat format = named_format("Mistral (name)", "[TOOL_CALLS]", "[ARGS]", {});
  format.id_open = "[CALL_ID]";
  format.id_size = 9;
  return format;
}

ToolFormat mistral_list() {
  ToolFormat format =
      in_list(in_section(object_format("Mistral (list)", {}, {}, {}), "[TOOL_CALLS]", {}), "[", "]", ", ");
  format.id_key = "id";
  format.id_size = 9;
  return format;
}

ToolFormat cohere() {
  ToolFormat format = in_list(in_section(object_format("Cohere", {}, {}, {}), "<|START_ACTION|>", "<|END_ACTION|>"),
                              "[\n    ", "\n]", ",\n    ");
  format.name_key = "tool_name";
  format.arguments_key = "parameters";
  format.id_key = "tool_call_id";
  return format;
}

ToolFormat apertus() {
  ToolFormat format =
      in_list(in_section(object_format("Apertus", {}, {}, {}), "<|tools_prefix|>", "<|tools_suffix|>"), "[", "]", ", ");
  format.name_key.clear();
  return format;
}

ToolFormat pythonic(const char* name, const char* open, const char* close) {
  ToolFormat format = in_list(in_section(named_format(name, {}, "(", {}), open, close), "[", "]", ", ");
  format.dialect = ValueDialect::kPython;
  return format;
}

ToolFormat llama_pythonic() {
  ToolFormat format = pythonic("Llama 4 pythonic", "<|python_start|>", "<|python_end|>");
  format.only_at_start = true;
  return format;
}

ToolFormat gemma() {
  ToolFormat format = named_format("Gemma 4", "<|tool_call>call:", {}, "<tool_call|>");
  format.dialect = ValueDialect::kGemma;
  return format;
}

ToolFormat llama_json() {
  ToolFormat format = in_section(object_format("Llama 3 JSON", {}, {}, {}), "<|python_tag|>", {}, "; ");
  format.arguments_key = "parameters";
  format.only_at_start = true;
  return format;
}

std::vector<ToolFormat> make_formats() {
  std::vector<ToolFormat> all;
  all.push_back(harmony());
  all.push_back(kimi());
  all.push_back(in_section(named_format("DeepSeek V3", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "\n```json\n",
                                        "\n```<｜tool▁call▁end｜>"),
                           "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "\n"));
  all.push_back(
      in_section(named_format("DeepSeek V3.1", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
                 "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"));
  all.push_back(deepseek_tags("DeepSeek V3.2", "function_calls"));
  all.push_back(deepseek_tags("DeepSeek V4", "tool_calls"));
  all.push_back(gemma());
  all.push_back(in_section(with_parameters(named_format("MiniMax M2", "<invoke name=\"", "\">\n", "</invoke>\n"),
                                           "<parameter name=\"", "\">", "</parameter>\n"),
                           "<minimax:tool_call>\n", "</minimax:tool_call>"));
  ToolFormat coder =
      with_parameters(named_format("Qwen3-Coder", "<tool_call>\n<function=", ">\n", "</function>\n</tool_call>"),
                      "<parameter=", ">\n", "\n</parameter>\n");
  coder.separator = "\n";
  all.push_back(coder);
  ToolFormat seed =
      with_parameters(named_format("Seed-OSS", "<seed:tool_call>\n<function=", ">\n", "</function>\n</seed:tool_call>"),
                      "<parameter=", ">", "</parameter>\n");
  seed.separator = "\n";
  all.push_back(seed);
  all.push_back(with_parameters(named_format("GLM-4.7", "<tool_call>", {}, "</tool_call>"), "<arg_key>",
                                "</arg_key><arg_value>", "</arg_value>"));
  ToolFormat lines = with_parameters(named_format("GLM-4.5", "<tool_call>", {}, "</tool_call>"), "\n<arg_key>",
                                     "</arg_key>\n<arg_value>", "</arg_value>");
  lines.call_close = "\n</tool_call>";
  lines.separator = "\n";
  all.push_back(lines);
  ToolFormat attribute = with_parameters(named_format("MiniCPM5", "<function name=\"", "\">", "</function>"),
                                         "<param name=\"", "\">", "</param>");
  attribute.separator = "\n";
  all.push_back(attribute);
  all.push_back(mistral_named());
  all.push_back(mistral_list());
  all.push_back(cohere());
  all.push_back(apertus());
  all.push_back(object_format("Qwen3/Hermes", "<tool_call>\n", "\n</tool_call>", "\n"));
  all.push_back(named_format("Llama 3 functions", "<function=", ">", "</function>"));
  all.push_back(pythonic("LFM2 pythonic", "<|tool_call_start|>", "<|tool_call_end|>"));
  all.push_back(llama_pythonic());
  all.push_back(llama_json());
  return all;
}

}  // namespace

std::vector<std::string> delimiters_of(const ToolFormat& format) {
  if (format.kind == CallKind::kHarmony)
    return {"<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"};
  std::vector<std::string> all = {format.section_open, format.section_close, format.list_open,      format.list_close,
                                  format.separator,    format.call_open,     format.call_close,     format.id_open,
                                  format.name_close,   format.key_open,      format.json_key_close, format.key_close,
                                  format.value_close};
  if (format.dialect == ValueDialect::kGemma) all.emplace_back("<|\"|>");
  return all;
}

std::span<const ToolFormat> known_tool_formats() {
  static const std::vector<ToolFormat> all = make_formats();
  return all;
}

}  // namespace metal_marlin
