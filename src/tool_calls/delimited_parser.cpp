#include "tool_calls/delimited_parser.h"

#include "base/unicode.h"
#include "tool_calls/delimiter.h"

namespace metal_marlin {
namespace {

// Bytes that go on with a character.
std::size_t continuations(std::string_view text) {
  std::size_t size = 0;
  while (size < text.size() && is_continuation(text[size])) ++size;
  return size;
}

void add_text(CallEvents& out, CallEvent::Kind kind, std::string_view text) {
  if (text.empty()) return;
  if (out.empty() || out.back().kind != kind || kind == CallEvent::Kind::kBroken) out.push_back({kind, {}, {}, {}});
  out.back().text += text;
}

}  // namespace

DelimitedParser::DelimitedParser(const ToolFormat& format, const std::vector<ToolFunction>& functions, bool parallel)
    : format_(format), functions_(functions), parallel_(parallel) {}

void DelimitedParser::push(std::string_view text, CallEvents& out) {
  held_ += text;
  while (advance(false, out)) {
  }
}

void DelimitedParser::finish(CallEvents& out) {
  while (advance(true, out)) {
  }
}

// \returns whether something was done, and more may be.
bool DelimitedParser::advance(bool last, CallEvents& out) {
  switch (stage_) {
    case Stage::kText: return read_text(last, out);
    case Stage::kSection: return read_section(last, out);
    case Stage::kCall: return read_call(last, out);
    case Stage::kClose: return read_close(last, out);
    default: held_.clear(); return false;
  }
}

// Text whose place is known.
void DelimitedParser::release(std::size_t size, CallEvents& out) {
  if (size == 0) return;
  for (std::size_t i = 0; i < size; ++i) place_.pass(held_[i]);
  add_text(out, CallEvent::Kind::kText, std::string_view(held_).substr(0, size));
  held_.erase(0, size);
  after_call_ = false;
  at_start_ = false;
}

// What begins calls where they may be.
DelimiterMatch DelimitedParser::find_open(std::string_view text, bool at_start) const {
  const std::string& open = format_.section_open.empty() ? format_.call_open : format_.section_open;
  DelimiterMatch match;
  if (!trim_space(open).empty()) match = match_delimiter(text, open);
  if (match.is_whole || match.is_partial || !at_start || !format_.only_at_start) return match;
  const bool begins = text.starts_with(trim_space(format_.list_open.empty() ? "{" : format_.list_open));
  return {.is_whole = begins, .size = 0};
}

bool DelimitedParser::read_text(bool last, CallEvents& out) {
  if (after_call_) held_.erase(0, skip_space(held_, 0));
  TextPlace place = place_;
  std::size_t text_end = 0;  // white space behind it may belong to a call
  for (std::size_t at = 0; at < held_.size(); ++at) {
    if (is_space_byte(held_[at])) {
      place.pass(held_[at]);
      continue;
    }
    const DelimiterMatch match =
        place.is_plain() ? find_open(std::string_view(held_).substr(at), at_start_ && text_end == 0) : DelimiterMatch();
    if (match.is_whole) {
      release(text_end, out);
      open(at - text_end, at - text_end, match.size);
      return true;
    }
    if (match.is_partial && !last) break;
    place.pass(held_[at]);
    text_end = at + 1;
  }
  release(last ? held_.size() : text_end, out);
  return false;
}

// \param space before the delimiter at `at` of what is held.
void DelimitedParser::open(std::size_t space, std::size_t at, std::size_t size) {
  raw_ = held_.substr(0, at + size);
  opened_ = space;
  held_.erase(0, at + size);
  is_first_ = true;
  in_list_ = false;
  if (format_.is_section()) {
    stage_ = Stage::kSection;
    told_ = false;
    call_.reset();
  } else {
    begin_call();
  }
}

void DelimitedParser::begin_call() {
  told_ = false;
  call_.emplace(format_, functions_);
  stage_ = Stage::kCall;
}

void DelimitedParser::take(std::size_t size) {
  raw_.append(held_, 0, size);
  held_.erase(0, size);
}

void DelimitedParser::leave_section() {
  stage_ = Stage::kText;
  after_call_ = true;
  raw_.clear();
  call_.reset();
}

// Between two calls, before the first or behind the last.
bool DelimitedParser::read_section(bool last, CallEvents& out) {
  const std::size_t begin = skip_space(held_, 0);
  if (begin == held_.size() && !last) return false;
  if (is_first_ && !in_list_ && !format_.list_open.empty()) return open_list(begin, last, out);
  if (!is_first_) {
    if (const auto done = close_section(begin, last)) return *done;
  }
  return read_next_call(begin, last, out);
}

bool DelimitedParser::open_list(std::size_t begin, bool last, CallEvents& out) {
  const DelimiterMatch list = match_delimiter(std::string_view(held_).substr(begin), format_.list_open);
  if (list.is_partial && !last) return false;
  if (list.is_whole) {
    take(begin + list.size);
    in_list_ = true;
  } else {
    break_call(out);
  }
  return true;
}

// \returns none: neither the list nor the section ends here.
std::optional<bool> DelimitedParser::close_section(std::size_t begin, bool last) {
  const std::string_view rest = std::string_view(held_).substr(begin);
  const std::string& close = in_list_ ? format_.list_close : format_.section_close;
  const DelimiterMatch match = match_delimiter(rest, close);
  if (match.is_partial && !last) return false;
  const bool is_cut = match.is_partial && !rest.empty();  // by the answer's end
  if ((match.is_whole || is_cut) && !trim_space(close).empty()) {
    held_.erase(0, is_cut ? held_.size() : begin + match.size);
    raw_.clear();
    if (!in_list_ || format_.section_close.empty()) {
      leave_section();
    } else {
      in_list_ = false;
    }
    return true;
  }
  // A list is closed, or open to the end: no call may follow.
  if (!rest.empty() && (format_.list_open.empty() || in_list_)) return std::nullopt;
  leave_section();
  return true;
}

bool DelimitedParser::read_next_call(std::size_t begin, bool last, CallEvents& out) {
  std::size_t at = begin;
  const std::string_view separator = trim_space(format_.separator);
  if (!is_first_ && !separator.empty()) {
    const DelimiterMatch match = match_delimiter(std::string_view(held_).substr(begin), separator);
    if (match.is_partial && !last) return false;
    if (match.is_whole) at = skip_space(held_, begin + match.size);
    if (at == held_.size() && !last) return false;
  }
  const std::string_view rest = std::string_view(held_).substr(at);
  const DelimiterMatch match = match_delimiter(rest, format_.call_open);
  if (match.is_partial && !last) return false;
  const bool is_bare = format_.call_open.empty() && format_.kind == CallKind::kObject;
  if (match.is_whole && !rest.empty() && (!is_bare || rest.starts_with('{'))) {
    if (!is_first_) {  // what came before is a call of its own
      raw_.clear();
      opened_ = at;
    }
    take(at + match.size);
    begin_call();
  } else if (is_first_) {
    break_call(out);
  } else {
    leave_section();
  }
  return true;
}

void DelimitedParser::tell_call(CallEvents& out) {
  if (!told_) out.push_back({CallEvent::Kind::kBegin, {}, call_->name(), call_->id()});
  told_ = true;
  add_text(out, CallEvent::Kind::kArguments, call_->take_arguments());
}

bool DelimitedParser::read_call(bool last, CallEvents& out) {
  take(call_->read(held_, last));
  // What has no arguments is known as a call by what closes it.
  if (call_->has_begun()) tell_call(out);
  if (call_->is_done()) {
    stage_ = Stage::kClose;
    return true;
  }
  if (!call_->has_failed() && !last) return false;
  break_call(out);
  return true;
}

bool DelimitedParser::read_close(bool last, CallEvents& out) {
  const std::size_t begin = skip_space(held_, 0);
  const std::string_view rest = std::string_view(held_).substr(begin);
  const DelimiterMatch match = match_delimiter(rest, format_.call_close);
  if (match.is_partial && !last) return false;
  // Some end their answer in the place of the tag; what has no other end must have begun with it.
  const bool ends = match.is_partial && last && (format_.kind != CallKind::kParameters || !rest.empty());
  if (!match.is_whole && !ends) {
    break_call(out);
    return true;
  }
  take(ends ? held_.size() : begin + match.size);
  end_call(out);
  return true;
}

void DelimitedParser::end_call(CallEvents& out) {
  tell_call(out);
  out.push_back({CallEvent::Kind::kEnd, {}, {}, {}});
  raw_.clear();
  call_.reset();
  is_first_ = false;
  after_call_ = true;
  place_ = {};
  if (!parallel_) {
    stage_ = Stage::kIgnored;
  } else {
    stage_ = format_.is_section() ? Stage::kSection : Stage::kText;
  }
}

// What was told comes back as text as a whole. Else what seemed to open a call is text, and what follows it is looked
// at anew.
void DelimitedParser::break_call(CallEvents& out) {
  stage_ = Stage::kText;
  call_.reset();
  if (told_) {
    for (const char c : raw_) place_.pass(c);
    add_text(out, CallEvent::Kind::kBroken, raw_);
    at_start_ = false;
    after_call_ = false;
  } else {
    held_.insert(0, raw_);
    const std::size_t from = after_call_ ? skip_space(held_, 0) : 0;
    held_.erase(0, from);
    const std::size_t size = opened_ - from + 1;
    release(size + continuations(std::string_view(held_).substr(size)), out);
  }
  raw_.clear();
}

}  // namespace metal_marlin
