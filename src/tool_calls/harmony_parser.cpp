#include "tool_calls/harmony_parser.h"

#include <algorithm>
#include <array>

#include "tool_calls/delimiter.h"

namespace metal_marlin {
namespace {

constexpr std::string_view kMessage = "<|message|>";
constexpr std::string_view kChannel = "<|channel|>";
constexpr std::string_view kRecipient = "to=";
// What may end a body: the model's own marks, and those of a message that follows without one.
constexpr std::array<std::string_view, 5> kBodyEnds = {"<|end|>", "<|call|>", "<|return|>", "<|start|>", kChannel};
constexpr std::array<std::string_view, 5> kHeaderBegins = {kChannel, kRecipient, kMessage, "<|start|>",
                                                           "<|constrain|>"};
constexpr std::size_t kMostHeader = 512;

// Up to the next space or mark.
std::string_view header_word(std::string_view header, std::string_view behind) {
  const std::size_t at = header.find(behind);
  if (at == header.npos) return {};
  header.remove_prefix(at + behind.size());
  return header.substr(0, header.find_first_of(" \t\r\n<"));
}

bool may_begin_header(std::string_view text) {
  return std::any_of(kHeaderBegins.begin(), kHeaderBegins.end(),
                     [&](std::string_view begin) { return text.starts_with(begin) || begin.starts_with(text); });
}

struct BodyEnd {
  std::size_t at;
  std::size_t size = 0;  // 0: there is none before `at`, behind which one may have begun
};

BodyEnd find_body_end(std::string_view text) {
  for (std::size_t at = text.find("<|"); at != text.npos; at = text.find("<|", at + 1)) {
    for (const std::string_view end : kBodyEnds) {
      if (text.substr(at).starts_with(end)) return {at, end.size()};
    }
  }
  std::size_t partial = 0;
  for (const std::string_view end : kBodyEnds) partial = std::max(partial, partial_end(text, end));
  return {text.size() - partial};
}

}  // namespace

HarmonyParser::HarmonyParser(const ToolFormat& format, const std::vector<ToolFunction>& functions, bool parallel)
    : format_(format), functions_(functions), parallel_(parallel) {}

void HarmonyParser::push(std::string_view text, CallEvents& out) {
  held_ += text;
  while (advance(false, out)) {
  }
}

void HarmonyParser::finish(CallEvents& out) {
  while (advance(true, out)) {
  }
  if (stage_ == Stage::kBody) end_message(out);
}

bool HarmonyParser::advance(bool last, CallEvents& out) {
  if (held_.empty()) return false;
  switch (stage_) {
    case Stage::kHeader: return read_header(last, out);
    case Stage::kBody: return read_body(last, out);
    default: held_.clear(); return false;
  }
}

void HarmonyParser::tell(CallEvents& out, CallEvent::Kind kind, std::string_view text) {
  if (text.empty()) return;
  if (out.empty() || out.back().kind != kind || kind == CallEvent::Kind::kBroken) out.push_back({kind, {}, {}, {}});
  out.back().text += text;
}

bool HarmonyParser::read_header(bool last, CallEvents& out) {
  const std::size_t begin = skip_space(held_, 0);
  const std::string_view text = std::string_view(held_).substr(begin);
  if (text.empty()) {
    if (last) held_.clear();
    return false;
  }
  const std::size_t message = held_.find(kMessage);
  if (!may_begin_header(text) || std::min(message, held_.size()) > kMostHeader) {
    open_message({});  // a text without one
    return true;
  }
  if (message == held_.npos) {
    if (last) held_.clear();  // an answer that ends within one says nothing more
    return false;
  }
  const std::size_t size = message + kMessage.size();
  raw_ = held_.substr(0, size);
  open_message(std::string_view(raw_).substr(0, message));
  held_.erase(0, size);
  if (kind_ == CallEvent::Kind::kBroken) {
    kind_ = CallEvent::Kind::kText;
    tell(out, kind_, raw_);
  }
  return true;
}

// What a message is by its header; kBroken: it calls what cannot be called.
void HarmonyParser::open_message(std::string_view header) {
  stage_ = Stage::kBody;
  told_ = false;
  function_.clear();
  arguments_.reset();
  // The role of a message of its own comes first: what it is addressed to counts alone.
  const std::string_view channel = header_word(header, kChannel);
  std::string_view recipient = header_word(header, kRecipient);
  kind_ = channel == "analysis" ? CallEvent::Kind::kThought : CallEvent::Kind::kText;
  if (!recipient.starts_with(format_.name_prefix)) {
    // Tools that the model knows by itself, and that nobody runs here.
    if (!recipient.empty() && recipient != "all" && recipient != "user") kind_ = CallEvent::Kind::kThought;
    return;
  }
  recipient.remove_prefix(format_.name_prefix.size());
  if (!functions_.has(recipient)) {
    kind_ = CallEvent::Kind::kBroken;
    return;
  }
  function_ = recipient;
  arguments_.emplace(ValueDialect::kJson);
}

bool HarmonyParser::read_body(bool last, CallEvents& out) {
  const BodyEnd end = find_body_end(held_);
  const std::size_t ready = last && end.size == 0 ? held_.size() : end.at;
  const std::string text = held_.substr(0, ready);
  const bool is_over = end.size > 0;
  // A mark that begins the next header stays.
  const std::string_view mark = std::string_view(held_).substr(end.at, end.size);
  const bool keeps = mark == "<|start|>" || mark == kChannel;
  held_.erase(0, ready + (keeps ? 0 : end.size));
  add_body(text, last || is_over, out);
  if (!is_over) return false;
  end_message(out);
  return stage_ != Stage::kIgnored;
}

void HarmonyParser::add_body(std::string_view text, bool last, CallEvents& out) {
  if (arguments_) {
    add_arguments(text, last, out);
  } else {
    tell(out, kind_, text);
  }
}

void HarmonyParser::add_arguments(std::string_view text, bool last, CallEvents& out) {
  raw_ += text;
  pending_ += text;
  std::string json;
  std::size_t at = 0;
  if (!arguments_->has_begun()) at = skip_space(pending_, 0);
  const bool is_object = arguments_->has_begun() || at == pending_.size() || pending_[at] == '{';
  if (is_object) {
    at += arguments_->read(std::string_view(pending_).substr(at), last, json);
    if (arguments_->is_done()) at = skip_space(pending_, at);
  }
  pending_.erase(0, at);
  if (is_object && arguments_->has_begun() && !told_) {
    out.push_back({CallEvent::Kind::kBegin, {}, function_, {}});
    told_ = true;
  }
  tell(out, CallEvent::Kind::kArguments, json);
  if (is_object && !arguments_->has_failed() && !(arguments_->is_done() && !pending_.empty())) return;
  break_call(out);
}

void HarmonyParser::break_call(CallEvents& out) {
  tell(out, told_ ? CallEvent::Kind::kBroken : CallEvent::Kind::kText, raw_);
  arguments_.reset();
  pending_.clear();
  kind_ = CallEvent::Kind::kText;
}

void HarmonyParser::end_message(CallEvents& out) {
  stage_ = Stage::kHeader;
  if (!arguments_) return;
  if (!arguments_->is_done()) return break_call(out);
  out.push_back({CallEvent::Kind::kEnd, {}, {}, {}});
  arguments_.reset();
  if (!parallel_) stage_ = Stage::kIgnored;
}

}  // namespace metal_marlin
