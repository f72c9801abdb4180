#include "tool_calls/detect.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "metal_marlin/error.h"
#include "tool_calls/call_parser.h"
#include "tool_calls/delimiter.h"
#include "tool_calls/value_reader.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kQuestion = "ASKED-BY-THE-PROBE";
constexpr std::string_view kAnswer = "ANSWERED-TO-THE-PROBE";

constexpr std::size_t kMostDelimiter = 100;

struct ProbeCall {
  std::string name;
  OrderedJson arguments;
};

const std::vector<ProbeCall>& probe_calls() {
  static const std::vector<ProbeCall> calls = {{"probe_first", {{"alpha", "some words"}, {"beta", 7}}},
                                               {"probe_second", {{"gamma", {1, 2}}}}};
  return calls;
}

std::vector<ToolFunction> probe_functions() {
  return {{"probe_first",
           R"({"type":"object","properties":{"alpha":{"type":"string","description":"A"},)"
           R"("beta":{"type":"integer","description":"B"}},"required":["alpha","beta"]})",
           false},
          {"probe_second",
           R"({"type":"object","properties":{"gamma":{"type":"array","items":{"type":"integer"},)"
           R"("description":"C"}},"required":["gamma"]})",
           false}};
}

std::size_t common_end(std::string_view a, std::string_view b) {
  const auto [mine, its] = std::mismatch(a.rbegin(), a.rend(), b.rbegin(), b.rend());
  return static_cast<std::size_t>(mine - a.rbegin());
}

std::size_t common_begin(std::string_view a, std::string_view b) {
  const auto [mine, its] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return static_cast<std::size_t>(mine - a.begin());
}

// One way to say the conversation.
struct ProbeWay {
  std::size_t calls = 2;
  bool as_text = false;
  bool null_content = true;
};

class Probe {
 public:
  explicit Probe(const ChatTemplate& chat) : chat_(chat) {
    OrderedJson tools = OrderedJson::array();
    for (const ToolFunction& function : probe_functions()) {
      tools.push_back({{"type", "function"},
                       {"function",
                        {{"name", function.name},
                         {"description", "A probe."},
                         {"parameters", OrderedJson::parse(function.parameters)}}}});
    }
    options_.tools = tools.dump();
    options_.bos = "";
    options_.eos = "<end-of-the-probe>";
    prompt_ = render(OrderedJson::array({question()}), true);
    const auto answered =
        render(OrderedJson::array({question(), {{"role", "assistant"}, {"content", kAnswer}}}), false);
    if (!answered) return;
    const std::size_t at = answered->rfind(kAnswer);
    if (at != answered->npos) end_ = answered->substr(at + kAnswer.size());
  }

  // What the template writes for the calls, from where an answer begins; none: nothing that has them.
  [[nodiscard]] std::optional<std::string> answer(const ProbeWay& way) const {
    OrderedJson message = {{"role", "assistant"}, {"content", way.null_content ? OrderedJson() : OrderedJson("")}};
    for (std::size_t i = 0; i < way.calls; ++i) {
      const ProbeCall& call = probe_calls()[i];
      const OrderedJson arguments = way.as_text ? OrderedJson(call.arguments.dump()) : call.arguments;
      message["tool_calls"].push_back({{"id", "call0000" + std::to_string(i + 1)},
                                       {"type", "function"},
                                       {"function", {{"name", call.name}, {"arguments", arguments}}}});
    }
    auto text = render(OrderedJson::array({question(), message}), false);
    if (!text) return std::nullopt;
    const std::size_t asked = text->rfind(kQuestion);
    std::size_t begin = asked == text->npos ? text->npos : asked + kQuestion.size();
    if (prompt_ && begin != text->npos) begin = std::max(begin, behind_prompt(*text));
    if (begin == text->npos) return std::nullopt;
    std::string answer = text->substr(begin);
    const std::string_view end = trim_space(end_);
    if (!end.empty() && trim_space(answer).ends_with(end)) answer.erase(answer.rfind(end));
    for (const char* const spelled : {"None", "null"}) {
      if (way.null_content && answer.find(spelled) != answer.npos) return std::nullopt;
    }
    for (std::size_t i = 0; i < way.calls; ++i) {
      if (answer.find(probe_calls()[i].name) == answer.npos) return std::nullopt;
    }
    return answer;
  }

 private:
  static OrderedJson question() { return {{"role", "user"}, {"content", kQuestion}}; }
  // A prompt may go on with a thought's tag that an answer does not have, or the other way round: where they part, but
  // not in the middle of a tag.
  [[nodiscard]] std::size_t behind_prompt(std::string_view text) const {
    const std::size_t parted = common_begin(text, *prompt_);
    if (parted == prompt_->size()) return parted;
    const std::size_t tag = text.find_last_of("<[", parted - 1);
    const bool is_within = tag != text.npos && text.substr(tag, parted - tag).find_first_of(">]") == text.npos;
    return is_within ? tag : parted;
  }

  std::optional<std::string> render(const OrderedJson& messages, bool prompt) const {
    ChatOptions options = options_;
    options.add_generation_prompt = prompt;
    try {
      return chat_.render(messages.dump(), options);
    } catch (const Error&) {  // what a template refuses is not how it wants calls
      return std::nullopt;
    }
  }

  const ChatTemplate& chat_;
  ChatOptions options_;
  std::optional<std::string> prompt_;
  std::string end_;  // behind an answer
};

// Whether a format's parser finds the probe's calls, and nothing but `before` as text.
bool reads_probe(const ToolFormat& format, std::string_view answer, std::size_t calls) {
  const auto parser = CallParser::make(format, probe_functions(), true);
  CallEvents events;
  parser->push(answer, events);
  parser->finish(events);
  std::size_t found = 0;
  std::string arguments;
  for (const CallEvent& event : events) {
    if (event.kind == CallEvent::Kind::kBroken) return false;
    if (event.kind == CallEvent::Kind::kText && event.text.find("probe_") != event.text.npos) return false;
    if (event.kind == CallEvent::Kind::kBegin) {
      if (found == calls || event.name != probe_calls()[found].name) return false;
      arguments.clear();
    }
    if (event.kind == CallEvent::Kind::kArguments) arguments += event.text;
    if (event.kind == CallEvent::Kind::kEnd &&
        OrderedJson::parse(arguments, nullptr, false) != probe_calls()[found++].arguments)
      return false;
  }
  return found == calls;
}

// Whether all delimiters are there as the format spells them, white space and all.
bool is_spelled_so(const ToolFormat& format, std::string_view answer) {
  const std::array<std::string_view, 8> marks = {format.section_open, format.list_open, format.call_open,
                                                 format.name_close,   format.key_open,  format.key_close,
                                                 format.value_close,  format.call_close};
  return std::all_of(marks.begin(), marks.end(),
                     [&](std::string_view mark) { return answer.find(mark) != answer.npos; });
}

// Readers pass over white space, writers do not: of formats that differ in it alone the one that is spelled so.
const ToolFormat* find_known(std::string_view answer, std::size_t calls) {
  const ToolFormat* found = nullptr;
  for (const ToolFormat& format : known_tool_formats()) {
    if (!reads_probe(format, answer, calls)) continue;
    if (is_spelled_so(format, answer)) return &format;
    if (found == nullptr) found = &format;
  }
  return found;
}

// Where the object around a name begins, and behind its end.
std::optional<std::pair<std::size_t, std::size_t>> object_around(std::string_view text, std::string_view name) {
  const std::size_t inside = text.find(name);
  for (std::size_t begin = text.rfind('{', inside); begin != text.npos && inside != text.npos;
       begin = begin == 0 ? text.npos : text.rfind('{', begin - 1)) {
    ValueReader reader(ValueDialect::kJson);
    std::string json;
    const std::size_t size = reader.read(text.substr(begin), true, json);
    if (reader.is_done() && begin + size > inside) return std::pair(begin, begin + size);
  }
  return std::nullopt;
}

// The keys of name and arguments. \returns whether an object of the probe has both.
bool find_keys(const OrderedJson& object, const ProbeCall& call, ToolFormat& format) {
  format.name_key.clear();
  format.arguments_key.clear();
  for (const auto& [key, value] : object.items()) {
    if (value == call.name) format.name_key = key;
    if (value == call.arguments) format.arguments_key = key;
    if (value.is_string() && value.get<std::string>().starts_with("call0000")) format.id_key = key;
  }
  return !format.name_key.empty() && !format.arguments_key.empty();
}

std::string on_one_line(std::string_view text) {
  std::string line;
  for (const char c : trim_space(text)) {
    if (!is_space_byte(c))
      line += c;
    else if (!line.ends_with(' '))
      line += ' ';
  }
  return line;
}

// JSON objects between delimiters of whatever kind; of one call, or of two.
std::optional<ToolFormat> derive_format(std::string_view answer, std::size_t calls) {
  const auto first = object_around(answer, probe_calls()[0].name);
  const auto last = object_around(answer, probe_calls()[calls - 1].name);
  if (!first || !last || (calls > 1 && last->first < first->second)) return std::nullopt;
  ToolFormat format;
  const OrderedJson object =
      OrderedJson::parse(answer.substr(first->first, first->second - first->first), nullptr, false);
  if (!object.is_object() || !find_keys(object, probe_calls()[0], format)) return std::nullopt;
  const std::string_view before = answer.substr(0, first->first);
  const std::string_view behind = answer.substr(last->second);
  if (calls == 1) {
    format.call_open = before;
    format.call_close = behind;
  } else {
    std::string_view between = answer.substr(first->second, last->first - first->second);
    const std::size_t open = common_end(before, between);
    format.call_open = before.substr(before.size() - open);
    between.remove_suffix(open);
    const std::size_t close = common_begin(between, behind);
    format.call_close = between.substr(0, close);
    format.separator = between.substr(close);
    format.section_open = before.substr(0, before.size() - open);
    format.section_close = behind.substr(close);
  }
  for (std::string* const mark : {&format.section_open, &format.call_open}) {
    if (trim_space(*mark).empty()) mark->clear();
  }
  if (format.call_open.empty() && format.section_open.empty()) return std::nullopt;
  // Delimiters are short; what is not has more in it, such as a prompt.
  if (before.size() > kMostDelimiter || behind.size() > kMostDelimiter) return std::nullopt;
  format.name = "derived: " + on_one_line(before) + " {...} " + on_one_line(behind);
  return format;
}

std::optional<DetectedTools> detect_rendered(const Probe& probe) {
  for (const std::size_t calls : {std::size_t{2}, std::size_t{1}}) {
    for (const bool as_text : {false, true}) {
      for (const bool null_content : {true, false}) {
        const auto answer = probe.answer({calls, as_text, null_content});
        if (!answer) continue;
        DetectedTools found;
        found.takes_texts = as_text;
        found.takes_null = null_content;
        found.takes_parallel = calls > 1;
        if (const ToolFormat* const known = find_known(*answer, calls)) {
          found.format = *known;
          return found;
        }
        const auto derived = derive_format(*answer, calls);
        if (!derived || !reads_probe(*derived, *answer, calls)) continue;
        found.format = *derived;
        found.is_known = false;
        return found;
      }
    }
  }
  return std::nullopt;
}

// A format whose delimiters a template has in its text: some tell the model how to call, and leave calls out of what
// they write of earlier answers, or cannot be run with calls at all.
std::optional<DetectedTools> detect_spoken(std::string_view text) {
  for (const ToolFormat& format : known_tool_formats()) {
    const std::array<std::string_view, 3> marks = {format.section_open, format.call_open, format.key_open};
    const bool tells_alone =
        std::any_of(marks.begin(), marks.end(), [](std::string_view mark) { return mark.size() >= 10; });
    const bool has_all = std::all_of(marks.begin(), marks.end(),
                                     [&](std::string_view mark) { return text.find(trim_space(mark)) != text.npos; });
    const bool is_plain = format.kind == CallKind::kHarmony || format.only_at_start;
    if (!tells_alone || !has_all || is_plain) continue;
    DetectedTools found;
    found.format = format;
    found.is_rendered = false;
    return found;
  }
  return std::nullopt;
}

}  // namespace

std::optional<DetectedTools> detect_tools(const ChatTemplate& chat) {
  const Probe probe(chat);
  if (auto found = detect_rendered(probe)) return found;
  return detect_spoken(chat.text());
}

}  // namespace metal_marlin
