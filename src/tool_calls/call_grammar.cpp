#include "tool_calls/call_grammar.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/unicode.h"
#include "grammar/json_rules.h"
#include "grammar/made_grammar.h"
#include "grammar/pattern.h"
#include "grammar/schema.h"
#include "metal_marlin/error.h"
#include "tool_calls/call_reader.h"
#include "tool_calls/delimiter.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kGemmaMark = "<|\"|>";

// A delimiter as far as it tells itself from other text: its first character is nowhere else in it.
std::string_view first_mark(std::string_view delimiter) {
  delimiter = trim_space(delimiter);
  std::size_t second = 0;
  if (!delimiter.empty()) next_character(delimiter, second);
  const std::string_view first = delimiter.substr(0, second);
  return trim_space(delimiter.substr(0, delimiter.find(first, second)));
}

class CallRules {
 public:
  CallRules(Rules& rules, const ToolFormat& format, const std::vector<ToolFunction>& functions)
      : rules_(rules), json_(rules), format_(format), types_(functions), functions_(functions) {}

  ExpressionId calls(bool parallel);
  ExpressionId text_without(std::string_view mark);

 private:
  struct Member {
    std::string name;
    OrderedJson schema;
    bool is_required;
  };

  ExpressionId text(std::string_view bytes) { return rules_.text(bytes); }
  ExpressionId call(const ToolFunction& function);
  ExpressionId named_call(const ToolFunction& function);
  ExpressionId arguments(const ToolFunction& function);
  ExpressionId harmony_call(const ToolFunction& function);
  ExpressionId parameters(const ToolFunction& function);
  ExpressionId listed_members(const ToolFunction& function);
  ExpressionId member(const ToolFunction& function, const Member& each);
  ExpressionId value(const ToolFunction& function, const Member& each);
  ExpressionId bare_text(const ToolFunction& function, const Member& each, std::string_view close);
  [[nodiscard]] std::vector<Member> members(const ToolFunction& function) const;
  [[nodiscard]] bool is_text(const ToolFunction& function, const Member& each) const;
  [[nodiscard]] static OrderedJson schema_of(const ToolFunction& function);
  [[nodiscard]] static std::string place(const ToolFunction& function) { return "parameters of " + function.name; }

  Rules& rules_;
  JsonRules json_;
  const ToolFormat& format_;
  ToolFunctions types_;
  const std::vector<ToolFunction>& functions_;
};

// Texts that have `mark` nowhere. Its first character is nowhere else in it: what begins like it and goes on in another
// way is over there, or begins anew.
ExpressionId CallRules::text_without(std::string_view mark) {
  std::vector<std::pair<std::string_view, char32_t>> prefixes;  // and what would follow
  std::size_t at = 0;
  const char32_t first = next_character(mark, at);
  while (at < mark.size()) {
    const std::size_t size = at;
    const char32_t next = next_character(mark, at);
    prefixes.emplace_back(mark.substr(0, size), next);
  }
  const Characters all = Characters::all();
  const Characters begin{{first, first}};
  std::vector<ExpressionId> begun;
  std::vector<ExpressionId> over;
  for (const auto& [prefix, next] : prefixes) {
    const ExpressionId is = text(prefix);
    begun.push_back(is);
    over.push_back(rules_.sequence({is, rules_.characters(all.without(begin).without(Characters{{next, next}}))}));
  }
  const ExpressionId other = rules_.characters(all.without(begin));
  if (begun.empty()) return rules_.repeat(other, 0, {});
  const ExpressionId again = rules_.repeat(rules_.any_of(begun), 0, {});
  const ExpressionId part = rules_.any_of({other, rules_.sequence({again, rules_.any_of(std::move(over))})});
  return rules_.rule("text", rules_.sequence({rules_.repeat(part, 0, {}), again}));
}

OrderedJson CallRules::schema_of(const ToolFunction& function) {
  OrderedJson schema =
      function.parameters.empty() ? OrderedJson::object() : OrderedJson::parse(function.parameters, nullptr, false);
  if (!schema.is_object()) throw Error(ErrorCode::kInvalidArgument, place(function) + ": expected an object");
  if (!schema.contains("type")) schema["type"] = "object";
  if (schema["type"] != "object")
    throw Error(ErrorCode::kInvalidArgument,
                place(function) + ": type is " + schema["type"].dump() + ", expected \"object\"");
  return schema;
}

ExpressionId CallRules::arguments(const ToolFunction& function) {
  return parse_schema(rules_, schema_of(function).dump(), place(function));
}

std::vector<CallRules::Member> CallRules::members(const ToolFunction& function) const {
  const OrderedJson schema = schema_of(function);
  std::vector<Member> all;
  const auto properties = schema.find("properties");
  if (properties == schema.end() || !properties->is_object()) return all;
  const OrderedJson required = schema.value("required", OrderedJson::array());
  for (const auto& [name, value] : properties->items()) {
    OrderedJson own = value;
    for (const char* const key : {"$defs", "definitions"}) {  // what references lead to
      if (own.is_object() && schema.contains(key) && !own.contains(key)) own[key] = schema[key];
    }
    all.push_back({name, std::move(own), std::find(required.begin(), required.end(), name) != required.end()});
  }
  return all;
}

bool CallRules::is_text(const ToolFunction& function, const Member& each) const {
  return types_.types_of(function.name, each.name).contains("string");
}

// A text as it stands, up to what closes it.
ExpressionId CallRules::bare_text(const ToolFunction& function, const Member& each, std::string_view close) {
  const OrderedJson& schema = each.schema;
  const std::string where = fmt::format("{}.{}", place(function), each.name);
  std::vector<ExpressionId> choices;
  if (schema.contains("const") && schema["const"].is_string())
    choices.push_back(text(schema["const"].get<std::string>()));
  if (schema.contains("enum") && schema["enum"].is_array()) {
    for (const OrderedJson& choice : schema["enum"])
      choices.push_back(text(choice.is_string() ? choice.get<std::string>() : choice.dump()));
  }
  if (!choices.empty()) return rules_.any_of(std::move(choices));
  if (schema.contains("pattern") && schema["pattern"].is_string())
    return parse_pattern(rules_, schema["pattern"].get<std::string>(), where, {.search = true, .spell = {}});
  for (const char* const key : {"minLength", "maxLength", "format"}) {
    if (schema.contains(key) && function.strict)
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}: {} cannot be held to in this model's calls", where, key));
  }
  return text_without(trim_space(close));
}

ExpressionId CallRules::value(const ToolFunction& function, const Member& each) {
  if (format_.kind == CallKind::kParameters && is_text(function, each))
    return bare_text(function, each, format_.value_close);
  if (format_.dialect == ValueDialect::kGemma && is_text(function, each))
    return rules_.sequence({text(kGemmaMark), bare_text(function, each, kGemmaMark), text(kGemmaMark)});
  return parse_schema(rules_, each.schema.dump(), fmt::format("{}.{}", place(function), each.name));
}

ExpressionId CallRules::member(const ToolFunction& function, const Member& each) {
  if (format_.kind == CallKind::kParameters) {
    const bool is_json = !format_.json_key_close.empty() && !is_text(function, each);
    return rules_.sequence({text(format_.key_open), text(each.name),
                            text(is_json ? format_.json_key_close : format_.key_close), value(function, each),
                            text(format_.value_close)});
  }
  const char* const is = format_.dialect == ValueDialect::kPython ? "=" : ":";
  return rules_.sequence({text(each.name + is), value(function, each)});
}

ExpressionId CallRules::parameters(const ToolFunction& function) {
  std::vector<ExpressionId> all;
  for (const Member& each : members(function)) {
    const ExpressionId is = member(function, each);
    all.push_back(each.is_required ? is : rules_.optional(is));
  }
  return rules_.sequence(std::move(all));
}

// Members with commas between them, of which some may be left out.
ExpressionId CallRules::listed_members(const ToolFunction& function) {
  const std::vector<Member> all = members(function);
  const ExpressionId comma = text(format_.dialect == ValueDialect::kPython ? ", " : ",");
  ExpressionId first = rules_.empty();  // the rest, where nothing came before
  ExpressionId next = rules_.empty();   // and where something did
  for (auto each = all.rbegin(); each != all.rend(); ++each) {
    const ExpressionId is = member(function, *each);
    const ExpressionId begun = rules_.sequence({is, next});
    const ExpressionId followed = rules_.sequence({comma, is});
    first = rules_.rule("members", each->is_required ? begun : rules_.any_of({begun, first}));
    next = rules_.rule("members", rules_.sequence({each->is_required ? followed : rules_.optional(followed), next}));
  }
  return first;
}

ExpressionId CallRules::named_call(const ToolFunction& function) {
  std::vector<ExpressionId> parts = {text(format_.name_prefix + function.name)};
  if (format_.is_indexed)
    parts.push_back(rules_.sequence({text(":"), rules_.repeat(rules_.characters({{U'0', U'9'}}), 1, 3)}));
  parts.push_back(text(format_.name_close));
  if (format_.kind == CallKind::kParameters) {
    parts.push_back(parameters(function));
  } else if (format_.dialect == ValueDialect::kJson) {
    parts.push_back(arguments(function));
  } else {
    const bool is_python = format_.dialect == ValueDialect::kPython;
    if (!is_python) parts.push_back(text("{"));
    parts.push_back(listed_members(function));
    parts.push_back(text(is_python ? ")" : "}"));
  }
  return rules_.sequence(std::move(parts));
}

ExpressionId CallRules::call(const ToolFunction& function) {
  ExpressionId is = 0;
  if (format_.kind == CallKind::kObject) {
    const std::string name = OrderedJson(function.name).dump();
    const std::string head = format_.name_key.empty()
                                 ? fmt::format("{{{}: ", name)
                                 : fmt::format("{{\"{}\": {}, \"{}\": ", format_.name_key, name, format_.arguments_key);
    is = rules_.sequence({text(head), arguments(function), text("}")});
  } else {
    is = named_call(function);
  }
  return rules_.sequence({text(format_.call_open), is, text(format_.call_close)});
}

ExpressionId CallRules::harmony_call(const ToolFunction& function) {
  return rules_.sequence({text(fmt::format("<|channel|>commentary to={}{} <|constrain|>json<|message|>",
                                           format_.name_prefix, function.name)),
                          arguments(function)});
}

ExpressionId CallRules::calls(bool parallel) {
  const bool is_harmony = format_.kind == CallKind::kHarmony;
  std::vector<ExpressionId> choices;
  for (const ToolFunction& function : functions_)
    choices.push_back(is_harmony ? harmony_call(function) : call(function));
  const ExpressionId one = rules_.rule("call", rules_.any_of(std::move(choices)));
  if (is_harmony) {  // a message has one
    const ExpressionId thought = rules_.sequence(
        {text("<|channel|>analysis<|message|>"), text_without("<|end|>"), text("<|end|><|start|>assistant")});
    return rules_.sequence({rules_.optional(thought), one});
  }
  std::vector<ExpressionId> parts = {text(format_.section_open + format_.list_open), one};
  // Several without a section are told apart by what is around each.
  if (parallel) parts.push_back(rules_.repeat(rules_.sequence({text(format_.separator), one}), 0, {}));
  parts.push_back(text(format_.list_close + format_.section_close));
  return rules_.sequence(std::move(parts));
}

}  // namespace

bool has_free_text(const ToolFormat& format) {
  return format.kind != CallKind::kHarmony && !format.only_at_start;
}

std::shared_ptr<const Grammar> call_grammar(const ToolFormat& format, const std::vector<ToolFunction>& functions,
                                            const CallGrammarOptions& options) {
  Rules rules;
  ToolFormat written = format;
  if (written.only_at_start) {  // these open a section only for tools of their own
    written.section_open.clear();
    written.section_close.clear();
  }
  CallRules calls(rules, written, functions);
  ExpressionId root = calls.calls(options.parallel);
  if (options.free_text) {
    const std::string& open = written.section_open.empty() ? written.call_open : written.section_open;
    root = rules.sequence({calls.text_without(first_mark(open)), rules.optional(root)});
  }
  return make_grammar(std::move(rules), root);
}

}  // namespace metal_marlin
