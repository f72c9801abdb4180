#include "server/tools.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "base/hash.h"
#include "io/json_fields.h"
#include "server/api_error.h"
#include "tool_calls/call_grammar.h"

namespace metal_marlin::server {
namespace {

constexpr std::size_t kMostToolName = 128;

bool is_tool_name(const std::string& name) {
  return !name.empty() && name.size() <= kMostToolName && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
           c == '.';
  });
}

std::string function_name(Fields& fields) {
  const auto name = fields.text("name");
  if (!name || !is_tool_name(*name)) {
    fields.wrong("name", fmt::format("1 to {} letters, digits, _, - or .", kMostToolName));
  }
  return *name;
}

const char* schema_key(ToolStyle style) {
  return style == ToolStyle::kMessage ? "input_schema" : "parameters";
}

ToolFunction read_function(Fields& fields, ToolStyle style) {
  ToolFunction function;
  function.name = function_name(fields);
  fields.text("description");
  function.strict = fields.boolean("strict", false);
  const char* const key = schema_key(style);
  const OrderedJson* const parameters = fields.find(key);
  if (parameters == nullptr && style != ToolStyle::kMessage) return function;
  if (parameters == nullptr || !parameters->is_object()) fields.wrong(key, "a JSON Schema, an object");
  function.parameters = json_text(*parameters);
  return function;
}

void check_type(Fields& tool, std::string_view expected) {
  const std::string type = tool.text("type").value_or("");
  if (type == expected) return;
  throw ApiError(400,
                 fmt::format("{} is {}, expected {}: others are not run here", tool.name_of("type"),
                             OrderedJson(type).dump(), expected),
                 tool.name_of("type"), "unsupported_tool");
}

// Those of Anthropic's API are `custom`, or have no type; its fields that are for more than the model's own calls must
// ask for nothing.
void check_message_tool(Fields& tool) {
  if (tool.find("type") != nullptr) check_type(tool, "custom");
  if (tool.boolean("defer_loading", false)) tool.wrong("defer_loading", "false: tools are shown from the start");
  const OrderedJson* const callers = tool.find("allowed_callers");
  if (callers != nullptr && *callers != OrderedJson::array({"direct"}))
    tool.wrong("allowed_callers", "[\"direct\"]: no code is run here");
  const OrderedJson* const examples = tool.find("input_examples");
  if (examples != nullptr && !examples->is_array()) tool.wrong("input_examples", "a list of objects");
  tool.boolean("eager_input_streaming", true);  // inputs are streamed as they are made
}

// The function's own fields, of a tool or of a choice; in chats those of its member `function`.
Fields function_fields(Fields& tool, ToolStyle style) {
  check_type(tool, "function");
  if (style != ToolStyle::kChat) return tool;
  auto function = tool.object("function");
  if (!function) tool.wrong("function", "an object");
  return *function;
}

// As templates know functions: with everything that a tool says of itself.
OrderedJson shown_function(const OrderedJson& fields, ToolStyle style) {
  OrderedJson shown = OrderedJson::object();
  for (const auto& [key, value] : fields.items()) {
    const bool is_own = key == "type" || key == "cache_control" || key == "eager_input_streaming" ||
                        key == "defer_loading" || key == "allowed_callers";
    if (!is_own && !value.is_null()) shown[key == schema_key(style) ? "parameters" : key] = value;
  }
  if (!shown.contains("description")) shown["description"] = "";  // templates ask for it
  if (!shown.contains("parameters")) shown["parameters"] = {{"type", "object"}, {"properties", OrderedJson::object()}};
  return {{"type", "function"}, {"function", std::move(shown)}};
}

void add_function(Fields& fields, const OrderedJson& value, ToolStyle style, Tools& tools) {
  constexpr std::array<std::string_view, 1> own = {"type"};
  constexpr std::array<std::string_view, 1> cached = {"cache_control"};
  ToolFunction function = read_function(fields, style);
  fields.refuse_others(style == ToolStyle::kMessage ? std::span(cached) : std::span(own));
  const auto same = [&](const ToolFunction& each) { return each.name == function.name; };
  if (std::any_of(tools.functions.begin(), tools.functions.end(), same)) {
    throw conflict(fmt::format("{} is {}, as of another function", fields.name_of("name"), function.name),
                   fields.name_of("name"));
  }
  tools.shown.push_back(shown_function(value, style));
  tools.functions.push_back(std::move(function));
}

void read_list(const OrderedJson& list, ToolStyle style, Tools& tools) {
  for (std::size_t i = 0; i < list.size(); ++i) {
    Fields tool(list[i], fmt::format("tools[{}]", i));
    if (style == ToolStyle::kMessage) {
      check_message_tool(tool);
      add_function(tool, list[i], style, tools);
    } else {
      Fields fields = function_fields(tool, style);
      add_function(fields, style == ToolStyle::kChat ? list[i]["function"] : list[i], style, tools);
    }
  }
}

const ToolFunction& named_function(Fields& named, const Tools& tools) {
  const std::string name = function_name(named);
  const auto found = std::find_if(tools.functions.begin(), tools.functions.end(),
                                  [&](const ToolFunction& each) { return each.name == name; });
  if (found == tools.functions.end()) {
    throw conflict(fmt::format("{} is {}, which none of the tools is called", named.name_of("name"), name),
                   named.name_of("name"));
  }
  return *found;
}

void choose_one(Fields& named, Tools& tools) {
  tools.functions = {ToolFunction(named_function(named, tools))};
  tools.choice = ToolChoice::kRequired;
  tools.parallel = false;
}

// Some of the tools, as if there were no others; the model is still told of all, so that prompts begin alike.
void choose_some(Fields& choice, ToolStyle style, Tools& tools) {
  constexpr std::array<std::string_view, 2> modes = {"auto", "required"};
  auto nested = style == ToolStyle::kChat ? choice.object("allowed_tools") : std::optional<Fields>(choice);
  if (!nested) choice.wrong("allowed_tools", "an object with mode and tools");
  if (nested->choice("mode", modes) == "required") tools.choice = ToolChoice::kRequired;
  const OrderedJson* const list = nested->find("tools");
  if (list == nullptr || !list->is_array() || list->empty()) nested->wrong("tools", "a list of at least one tool");
  std::vector<ToolFunction> allowed;
  for (std::size_t i = 0; i < list->size(); ++i) {
    Fields entry((*list)[i], fmt::format("{}[{}]", nested->name_of("tools"), i));
    Fields named = function_fields(entry, style);
    const ToolFunction& function = named_function(named, tools);
    if (std::none_of(allowed.begin(), allowed.end(), [&](const auto& each) { return each.name == function.name; }))
      allowed.push_back(function);
  }
  tools.functions = std::move(allowed);
}

// Anthropic's: {"type": "auto" | "any" | "tool" | "none", "name", "disable_parallel_tool_use"}.
void read_message_choice(Fields& fields, Tools& tools) {
  auto choice = fields.object("tool_choice");
  if (!choice) return;
  constexpr std::array<std::string_view, 4> types = {"auto", "any", "tool", "none"};
  const std::string type = choice->choice("type", types);
  tools.parallel = !choice->boolean("disable_parallel_tool_use", false);
  if (type == "none") tools.choice = ToolChoice::kNone;
  if (type == "any") tools.choice = ToolChoice::kRequired;
  if (type == "tool") choose_one(*choice, tools);
  choice->refuse_others({});
}

void read_choice(Fields& fields, ToolStyle style, Tools& tools) {
  const OrderedJson* const choice = fields.find("tool_choice");
  if (choice == nullptr) return;
  tools.asked_choice = *choice;
  if (*choice == "none") {
    tools.choice = ToolChoice::kNone;
  } else if (*choice == "required") {
    tools.choice = ToolChoice::kRequired;
  } else if (choice->is_object()) {
    Fields asked(*choice, "tool_choice");
    if (asked.text("type") == "allowed_tools") return choose_some(asked, style, tools);
    Fields function = function_fields(asked, style);
    choose_one(function, tools);
  } else if (*choice != "auto") {
    fields.wrong("tool_choice", "none, auto, required or an object of type function or allowed_tools");
  }
}

// What chats had before tools: functions without a type, of which one is called at a time.
void read_legacy(Fields& fields, Tools& tools) {
  const OrderedJson* const list = fields.find("functions");
  const OrderedJson* const choice = fields.find("function_call");
  if (list != nullptr && !list->is_array()) fields.wrong("functions", "a list of functions");
  if (list != nullptr && list->size() > kMostTools)
    fields.wrong("functions", fmt::format("at most {} functions", kMostTools));
  const bool is_choice = choice != nullptr && *choice != "none" && *choice != "auto";
  if (is_choice && !choice->is_object()) fields.wrong("function_call", "none, auto or an object with a name");
  if ((list == nullptr || list->empty()) && !is_choice) return;
  if (!tools.shown.empty())
    throw conflict("tools and functions: expected one of them", list == nullptr ? "function_call" : "functions");
  tools.is_legacy = true;
  tools.parallel = false;
  for (std::size_t i = 0; list != nullptr && i < list->size(); ++i) {
    Fields function((*list)[i], fmt::format("functions[{}]", i));
    add_function(function, (*list)[i], ToolStyle::kChat, tools);
  }
  if (choice != nullptr && *choice == "none") tools.choice = ToolChoice::kNone;
  if (!is_choice) return;
  Fields named(*choice, "function_call");
  choose_one(named, tools);
}

[[noreturn]] void refuse_tools(const ServedModel& model) {
  throw ApiError(
      400, fmt::format("tools: the chat template of model {} writes no calls of tools that can be told", model.name),
      "tools", "tools_unsupported");
}

// An object where the template wants one, or its text.
OrderedJson shown_arguments(const OrderedJson* arguments, bool as_text, const std::string& name) {
  OrderedJson value = arguments == nullptr ? OrderedJson::object() : *arguments;
  if (value.is_string() && value.get<std::string>().find_first_not_of(" \n\t\r") == std::string::npos)
    value = OrderedJson::object();
  if (value.is_string()) {
    const auto text = value.get<std::string>();
    if (!is_nested_deeper(text, 64) && most_json_fields(text) <= kMostJsonFields)
      value = OrderedJson::parse(text, nullptr, false);
  }
  if (!value.is_object())
    throw ApiError(400, fmt::format("{}: expected a JSON object, as text", name), name, "invalid_tool_arguments");
  return as_text ? OrderedJson(json_text(value)) : value;
}

// Names of functions by the ids of their calls.
using CallNames = std::map<std::string, std::string>;

void show_calls(OrderedJson& message, const std::string& name, const ServedModel& model, CallNames& names) {
  OrderedJson& calls = message["tool_calls"];
  for (std::size_t i = 0; i < calls.size(); ++i) {
    Fields call(calls[i], fmt::format("{}.tool_calls[{}]", name, i));
    auto function = call.object("function");
    if (!function) call.wrong("function", "an object with a name");
    const auto called = function->text("name");
    if (!called || called->empty()) function->wrong("name", "the name of a function");
    if (const auto id = call.text("id")) names[*id] = *called;
    OrderedJson arguments = shown_arguments(function->find("arguments"), model.tools && model.tools->takes_texts,
                                            function->name_of("arguments"));
    if (!calls[i].contains("type")) calls[i]["type"] = "function";
    calls[i]["function"]["arguments"] = std::move(arguments);
  }
  const auto content = message.find("content");
  const bool is_empty = content == message.end() || content->is_null() || *content == "";
  if (is_empty) message["content"] = model.tools && model.tools->takes_null ? OrderedJson() : OrderedJson("");
}

std::string base36(std::uint64_t number, int size) {
  std::string text;
  for (int i = 0; i < size; ++i, number /= 36) text += "0123456789abcdefghijklmnopqrstuvwxyz"[number % 36];
  return text;
}

}  // namespace

Tools read_tools(Fields& fields, ToolStyle style) {
  Tools tools;
  const OrderedJson* const list = fields.find("tools");
  if (list != nullptr && !list->is_array()) fields.wrong("tools", "a list of tools");
  if (list != nullptr && list->size() > kMostTools) fields.wrong("tools", fmt::format("at most {} tools", kMostTools));
  if (style != ToolStyle::kMessage) tools.parallel = fields.boolean("parallel_tool_calls", true);
  if (list != nullptr) read_list(*list, style, tools);
  if (style == ToolStyle::kMessage) {
    read_message_choice(fields, tools);
  } else {
    read_choice(fields, style, tools);
  }
  if (style == ToolStyle::kChat) read_legacy(fields, tools);
  if (tools.choice == ToolChoice::kRequired && tools.functions.empty())
    throw conflict("tool_choice asks for a call, but there are no tools", "tool_choice");
  return tools;
}

void learn_template(ServedModel& model) {
  if (!model.chat) return;
  model.reasoning = find_reasoning_tags(model.chat->text());
  model.tools = detect_tools(*model.chat);
  std::vector<std::string> marks = model.tools ? delimiters_of(model.tools->format) : std::vector<std::string>();
  if (model.reasoning) {
    marks.push_back(model.reasoning->open);
    marks.push_back(model.reasoning->close);
  }
  std::vector<std::string> special;
  for (const std::string& mark : marks) {
    for (const TokenId id : model.tokenizer->encode(mark, {.add_special = false, .parse_special = true})) {
      if (model.tokenizer->is_special(id)) special.push_back(model.tokenizer->decode(std::array{id}, false));
    }
  }
  if (!special.empty()) model.marked = model.tokenizer->showing(special);
}

OrderedJson with_calls(const OrderedJson& messages, const ServedModel& model) {
  OrderedJson shown = messages;
  CallNames names;
  for (std::size_t i = 0; i < shown.size(); ++i) {
    OrderedJson& message = shown[i];
    const auto calls = message.find("tool_calls");
    if (calls != message.end() && calls->empty()) message.erase("tool_calls");
    if (message.contains("tool_calls")) show_calls(message, fmt::format("messages[{}]", i), model, names);
    if (message["role"] != "tool" || message.contains("name")) continue;
    const auto id = message.find("tool_call_id");
    if (id != message.end() && id->is_string() && names.contains(id->get<std::string>()))
      message["name"] = names[id->get<std::string>()];
  }
  return shown;
}

bool add_tools(Service& service, const Call& call, const Tools& tools, const ServedModel& model, AnswerRoute answer,
               EngineRequest& engine) {
  if (!tools.may_call()) return true;
  if (!model.tools) refuse_tools(model);
  const ToolFormat& format = model.tools->format;
  const bool forced = tools.choice == ToolChoice::kRequired;
  const bool strict =
      std::any_of(tools.functions.begin(), tools.functions.end(), [](const ToolFunction& each) { return each.strict; });
  if (!forced && !(strict && has_free_text(format))) return true;
  if (engine.grammar) {
    if (!forced) return true;  // an answer that is held to something else calls nothing
    throw conflict("tool_choice asks for a call, and another field holds the answer to a grammar", "tool_choice");
  }
  if (!call.has_turn) {
    service.take_turn(call, answer);
    return false;
  }
  CallGrammarOptions options;
  options.parallel = tools.parallel && model.tools->takes_parallel;
  options.free_text = !forced;
  try {
    engine.grammar = call_grammar(format, tools.functions, options);
    model.engine->prepare(engine.grammar, engine.tokenizer);
  } catch (const Error& error) {
    throw to_api_error(Error(error.code(), std::string("tools: ") + error.what()), "tools");
  }
  return true;
}

std::unique_ptr<CallParser> make_call_parser(const Tools& tools, const ServedModel& model) {
  if (!model.tools) return nullptr;
  const ToolFormat& format = model.tools->format;
  // Channels are not only calls': their marks are taken out of every answer.
  if (!tools.may_call() && format.kind != CallKind::kHarmony) return nullptr;
  return CallParser::make(format, tools.may_call() ? tools.functions : std::vector<ToolFunction>(), tools.parallel);
}

std::string call_id(const ServedModel& model, const std::string& answer, std::size_t number,
                    const std::string& written) {
  if (!written.empty()) return written;
  const std::string name = fmt::format("{}-{}", answer, number);
  const int size = model.tools ? model.tools->format.id_size : 0;
  if (size == 0) return "call_" + name;
  return base36(hash_of(std::as_bytes(std::span(name))), size);
}

}  // namespace metal_marlin::server
