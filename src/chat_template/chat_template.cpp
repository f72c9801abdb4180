#include "metal_marlin/chat_template.h"

#include <algorithm>
#include <ctime>

#include "base/unicode.h"
#include "chat_template/characters.h"
#include "chat_template/failure.h"
#include "chat_template/interpreter.h"
#include "chat_template/json_text.h"
#include "chat_template/operators.h"
#include "chat_template/parser.h"
#include "chat_template/scopes.h"
#include "chat_template/template_source.h"
#include "metal_marlin/error.h"

namespace metal_marlin {
namespace {

using Variables = std::vector<std::pair<std::string, jinja::Value>>;

// Runs what may fail in a template, and names its file and line.
template <class F>
auto named(const std::string& where, F&& run) {
  try {
    return run();
  } catch (const jinja::Failure& failure) {
    const bool unsupported = failure.kind() == jinja::FailureKind::kUnsupported;
    const std::string line = failure.line() > 0 ? fmt::format(", line {}", failure.line()) : "";
    throw Error(unsupported ? ErrorCode::kUnsupported : ErrorCode::kInvalidArgument,
                fmt::format("{}{}: {}", where, line, failure.what()));
  }
}

std::chrono::local_seconds local_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  localtime_r(&now, &parts);
  const std::chrono::year_month_day date{std::chrono::year(parts.tm_year + 1900),
                                         std::chrono::month(static_cast<unsigned>(parts.tm_mon) + 1),
                                         std::chrono::day(static_cast<unsigned>(parts.tm_mday))};
  return std::chrono::local_days(date) + std::chrono::hours(parts.tm_hour) + std::chrono::minutes(parts.tm_min) +
         std::chrono::seconds(parts.tm_sec);
}

// The last message with a mark at the end of its text, where the prompt is cut off.
constexpr std::string_view kMark = "CONTINUE_FINAL_MESSAGE_TAG ";

struct Continued {
  jinja::Value messages;
  std::string last;
};

jinja::Value with_entry(const jinja::Dict& dict, const char* key, const jinja::Value& value) {
  jinja::Dict::Items items = dict.items();
  items.emplace_back(key, value);
  return std::make_shared<const jinja::Dict>(std::move(items));
}

[[noreturn]] void refuse_to_continue(const char* why) {
  throw Error(ErrorCode::kInvalidArgument, fmt::format("cannot continue the final message: {}", why));
}

Continued marked(const jinja::Value& messages) {
  std::vector<jinja::Value> all = messages.object<jinja::Sequence>()->items;
  const auto* const last = all.empty() ? nullptr : all.back().object<jinja::Dict>();
  const jinja::Value* const content = last ? last->find(std::string_view("content")) : nullptr;
  if (content == nullptr || content->is<jinja::None>()) refuse_to_continue("it has no content");
  if (content->is_text()) {
    all.back() = with_entry(*last, "content", content->text() + std::string(kMark));
    return {jinja::Value::list(std::move(all)), content->text()};
  }
  const auto* const parts = content->object<jinja::Sequence>();
  std::vector<jinja::Value> items = parts ? parts->items : std::vector<jinja::Value>();
  for (auto it = items.rbegin(); it != items.rend(); ++it) {
    const auto* const part = it->object<jinja::Dict>();
    const jinja::Value* const text = part ? part->find(std::string_view("text")) : nullptr;
    if (text == nullptr || !text->is_text()) continue;
    std::string before = text->text();
    *it = with_entry(*part, "text", before + std::string(kMark));
    all.back() = with_entry(*last, "content", jinja::Value::list(std::move(items)));
    return {jinja::Value::list(std::move(all)), std::move(before)};
  }
  refuse_to_continue("there is no text in it");
}

std::string cut_at_mark(std::string prompt, const std::string& last) {
  const std::string_view mark = jinja::strip(kMark);
  const std::size_t at = prompt.rfind(mark);
  if (at == prompt.npos || prompt.find(jinja::strip(last)) == prompt.npos) {
    refuse_to_continue("the template does not print it as it is");
  }
  const bool spaced = std::string_view(prompt).substr(at).starts_with(kMark);
  prompt.resize(at);
  if (!spaced) prompt.resize(jinja::strip(prompt, jinja::kRight).size());
  return prompt;
}

}  // namespace

struct ChatTemplate::Impl {
  struct Compiled {
    std::string where;
    std::string text;
    jinja::Tree tree;
  };
  Compiled main;
  std::optional<Compiled> with_tools;
  std::vector<std::pair<std::string, std::string>> tokens;  // bos_token and the like

  static Compiled compile(std::string_view text, const std::string& where) {
    if (!is_valid_utf8(text)) throw Error(ErrorCode::kInvalidArgument, where + ": not UTF-8");
    return named(where, [&] { return Compiled{where, std::string(text), jinja::resolve(jinja::parse(text))}; });
  }
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;

std::shared_ptr<const ChatTemplate> ChatTemplate::from_text(std::string_view text, const std::string& where) {
  auto impl = std::make_unique<Impl>();
  impl->main = Impl::compile(text, where);
  return std::shared_ptr<const ChatTemplate>(new ChatTemplate(std::move(impl)));
}

std::shared_ptr<const ChatTemplate> ChatTemplate::load(const std::filesystem::path& model, const std::string& name) {
  const TemplateSource source = read_template_source(model);
  auto impl = std::make_unique<Impl>();
  const NamedTemplate& main = source.find(name.empty() ? "default" : name);
  impl->main = Impl::compile(main.text, main.where);
  if (name.empty() && source.has("tool_use")) {
    const NamedTemplate& tools = source.find("tool_use");
    impl->with_tools = Impl::compile(tools.text, tools.where);
  }
  impl->tokens = source.tokens;
  return std::shared_ptr<const ChatTemplate>(new ChatTemplate(std::move(impl)));
}

bool is_reserved_variable(std::string_view name) {
  return std::ranges::find(kReservedVariables, name) != kReservedVariables.end();
}

std::string_view ChatTemplate::text() const {
  return impl_->main.text;
}

std::string ChatTemplate::render(std::string_view messages, const ChatOptions& options) const {
  const Impl::Compiled& chosen = options.tools && impl_->with_tools ? *impl_->with_tools : impl_->main;
  const jinja::Budget budget;
  return named(chosen.where, [&] {
    jinja::Value conversation = jinja::parse_json_value(messages, "messages");
    if (conversation.object<jinja::Sequence>() == nullptr) {
      throw Error(ErrorCode::kInvalidArgument, "messages: expected a JSON list, found " + type_name(conversation));
    }
    std::optional<std::string> last;
    if (options.continue_final_message) {
      if (options.add_generation_prompt) refuse_to_continue("a generation prompt is asked for, too");
      Continued continued = marked(conversation);
      conversation = std::move(continued.messages);
      last = std::move(continued.last);
    }
    const auto optional_json = [](const std::optional<std::string>& text, const char* where) {
      return text ? jinja::parse_json_value(*text, where) : jinja::Value(jinja::None{});
    };
    Variables variables = {{"messages", conversation},
                           {"tools", optional_json(options.tools, "tools")},
                           {"documents", optional_json(options.documents, "documents")},
                           {"add_generation_prompt", options.add_generation_prompt}};
    for (const auto& [name, text] : impl_->tokens) variables.emplace_back(name, sanitize_utf8(text));
    if (options.bos) variables.emplace_back("bos_token", sanitize_utf8(*options.bos));
    if (options.eos) variables.emplace_back("eos_token", sanitize_utf8(*options.eos));
    for (const auto& [name, json] : options.variables)
      variables.emplace_back(name, jinja::parse_json_value(json, name));
    jinja::Interpreter interpreter(chosen.tree, std::move(variables), options.now.value_or(local_now()));
    std::string prompt = interpreter.run();
    return last ? cut_at_mark(std::move(prompt), *last) : prompt;
  });
}

}  // namespace metal_marlin
