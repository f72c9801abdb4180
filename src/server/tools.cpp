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

ToolFunction read_function(Fields& fields) {
  ToolFunction function;
  function.name = function_name(fields);
  fields.text("description");
  function.strict = fields.boolean("strict", false);
  const OrderedJson* const parameters = fields.find("parameters");
  if (parameters == nullptr) return function;
  if (!parameters->is_object()) fields.wrong("parameters", "a JSON Schema, an object");
  function.parameters = json_text(*parameters);
  return function;
}

// The function's own fields; nested: those of its member `function`.
Fields function_fields(Fields& tool, bool flat) {
  const std::string type = tool.text("type").value_or("");
  if (type != "function") {
    throw ApiError(400,
                   fmt::format("{} is {}, expected function: others are not run here", tool.name_of("type"),
                               OrderedJson(type).dump()),
                   tool.name_of("type"), "unsupported_tool");
  }
  if (flat) return tool;
  auto function = tool.object("function");
  if (!function) tool.wrong("function", "an object");
  return *function;
}

void read_list(const OrderedJson& list, bool flat, Tools& tools) {
  constexpr std::array<std::string_view, 1> own = {"type"};
  for (std::size_t i = 0; i < list.size(); ++i) {
    Fields tool(list[i], fmt::format("tools[{}]", i));
    Fields fields = function_fields(tool, flat);
    ToolFunction function = read_function(fields);
    fields.refuse_others(own);
    const auto same = [&](const ToolFunction& each) { return each.name == function.name; };
    if (std::any_of(tools.functions.begin(), tools.functions.end(), same))
      fields.wrong("name", "a name that no other function has");
    OrderedJson shown = flat ? list[i] : list[i]["function"];
    if (flat) shown.erase("type");
    if (!shown.contains("description")) shown["description"] = "";  // templates ask for it
    if (!shown.contains("parameters") || shown["parameters"].is_null())
      shown["parameters"] = {{"type", "object"}, {"properties", OrderedJson::object()}};
    tools.shown.push_back({{"type", "function"}, {"function", std::move(shown)}});
    tools.functions.push_back(std::move(function));
  }
}

void read_choice(Fields& fields, bool flat, Tools& tools) {
  const OrderedJson* const choice = fields.find("tool_choice");
  if (choice == nullptr) return;
  tools.asked_choice = *choice;
  if (*choice == "none") {
    tools.choice = ToolChoice::kNone;
  } else if (*choice == "required") {
    tools.choice = ToolChoice::kRequired;
  } else if (choice->is_object()) {
    Fields named(*choice, "tool_choice");
    Fields function = function_fields(named, flat);
    const std::string name = function_name(function);
    const auto found = std::find_if(tools.functions.begin(), tools.functions.end(),
                                    [&](const ToolFunction& each) { return each.name == name; });
    if (found == tools.functions.end()) function.wrong("name", "the name of one of tools");
    tools.functions = {ToolFunction(*found)};
    tools.choice = ToolChoice::kRequired;
    tools.parallel = false;
  } else if (*choice != "auto") {
    fields.wrong("tool_choice", "none, auto, required or an object of type function");
  }
  if (tools.choice == ToolChoice::kRequired && tools.functions.empty())
    throw conflict("tool_choice asks for a call, but there are no tools", "tool_choice");
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
  if (!value.is_object()) throw ApiError(400, fmt::format("{}: expected a JSON object, as text", name), name);
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

Tools read_tools(Fields& fields, bool flat) {
  Tools tools;
  const OrderedJson* const list = fields.find("tools");
  if (list != nullptr && !list->is_array()) fields.wrong("tools", "a list of tools");
  if (list != nullptr && list->size() > kMostTools) fields.wrong("tools", fmt::format("at most {} tools", kMostTools));
  tools.parallel = fields.boolean("parallel_tool_calls", true);
  if (list != nullptr) read_list(*list, flat, tools);
  read_choice(fields, flat, tools);
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
