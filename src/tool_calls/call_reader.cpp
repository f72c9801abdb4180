#include "tool_calls/call_reader.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tool_calls/delimiter.h"

namespace metal_marlin {
namespace {

// Of a name or a key; what is longer is none.
constexpr std::size_t kMostName = 256;

// What is kept of an object's members before they are of use; what needs more is no call.
constexpr std::size_t kMostKept = 1 << 20;

// The types that a schema speaks of, as far as it does at its top.
void collect_types(const OrderedJson& schema, std::set<std::string>& types) {
  if (!schema.is_object()) return;
  if (const auto type = schema.find("type"); type != schema.end()) {
    if (type->is_string()) types.insert(type->get<std::string>());
    if (type->is_array()) {
      for (const OrderedJson& each : *type) {
        if (each.is_string()) types.insert(each.get<std::string>());
      }
    }
  }
  const auto kinds = schema.find("enum");
  if (types.empty() && kinds != schema.end() && kinds->is_array()) {
    for (const OrderedJson& each : *kinds) types.insert(each.is_string() ? "string" : each.type_name());
  }
  for (const char* const key : {"anyOf", "oneOf"}) {
    const auto list = schema.find(key);
    if (list == schema.end() || !list->is_array()) continue;
    for (const OrderedJson& each : *list) collect_types(each, types);
  }
}

std::string type_of(const OrderedJson& value) {
  if (value.is_number_integer()) return "integer";
  return value.type_name();  // as JSON Schema calls them, but for whole numbers
}

bool allows(const std::set<std::string>& types, const std::string& type) {
  return types.contains(type) || (type == "integer" && types.contains("number"));
}

// A value as JSON, where it is one of these types: Python's words are taken too.
std::optional<std::string> typed_value(std::string_view text, const std::set<std::string>& types) {
  text = trim_space(text);
  ValueReader reader(ValueDialect::kJson);
  std::string json;
  if (reader.read(text, true, json) != text.size() || !reader.is_done()) {
    json.clear();
    reader = ValueReader(ValueDialect::kPython);
    if (reader.read(text, true, json) != text.size() || !reader.is_done()) return std::nullopt;
  }
  if (types.contains("string") && !allows(types, type_of(OrderedJson::parse(json, nullptr, false))))
    return std::nullopt;
  return json;
}

std::string unquoted(const std::string& json) {
  const OrderedJson value = OrderedJson::parse(json, nullptr, false);
  return value.is_string() ? value.get<std::string>() : std::string();
}

}  // namespace

ToolFunctions::ToolFunctions(const std::vector<ToolFunction>& functions) {
  for (const ToolFunction& function : functions) {
    Types& types = types_[function.name];
    const OrderedJson schema = OrderedJson::parse(function.parameters, nullptr, false);
    if (!schema.is_object() || !schema.contains("properties") || !schema["properties"].is_object()) continue;
    for (const auto& [key, value] : schema["properties"].items()) collect_types(value, types[key]);
  }
}

bool ToolFunctions::has_like(std::string_view begun) const {
  begun = trim_space(begun);
  const auto next = types_.lower_bound(begun);
  return next != types_.end() && next->first.starts_with(begun);
}

std::set<std::string> ToolFunctions::types_of(std::string_view function, const std::string& parameter) const {
  const auto found = types_.find(function);
  if (found == types_.end()) return {};
  const auto types = found->second.find(parameter);
  return types == found->second.end() ? std::set<std::string>() : types->second;
}

CallReader::CallReader(const ToolFormat& format, const ToolFunctions& functions)
    : format_(format),
      functions_(functions),
      stage_(format.kind == CallKind::kObject ? Stage::kOpen : Stage::kName),
      is_lines_(format.key_close.ends_with('\n')) {}

std::size_t CallReader::read(std::string_view text, bool last) {
  std::size_t at = 0;
  while (!is_done() && !has_failed() && at < text.size()) {
    const std::size_t taken = step(text.substr(at), last);
    if (taken == 0) break;
    at += taken;
  }
  return at;
}

// \returns 0: more is needed, or it ended in one way or the other.
std::size_t CallReader::step(std::string_view rest, bool last) {
  switch (stage_) {
    case Stage::kName: return read_name(rest, last);
    case Stage::kArguments: return read_arguments(rest, last);
    case Stage::kParameter: return read_parameter(rest, last);
    case Stage::kKey: return read_key(rest, last);
    case Stage::kText: return read_text(rest, last);
    default: return read_object(rest, last);
  }
}

std::size_t CallReader::fail() {
  stage_ = Stage::kFailed;
  return 0;
}

bool CallReader::take_name(std::string_view spelled) {
  name_ = spelled;
  has_name_ = functions_.has(name_);
  return has_name_;
}

// ---- an object

bool CallReader::is_name_key() const {
  return !format_.name_key.empty() && unquoted(member_) == format_.name_key;
}

bool CallReader::is_arguments_key() const {
  if (format_.name_key.empty()) return true;
  const std::string key = unquoted(member_);
  return key == format_.arguments_key || key == "arguments" || key == "parameters";
}

std::size_t CallReader::read_object(std::string_view rest, bool last) {
  if (!value_ && is_space_byte(rest[0])) return 1;
  switch (stage_) {
    case Stage::kOpen:
      if (rest[0] != '{') return fail();
      stage_ = Stage::kMember;
      return 1;
    case Stage::kMember: {
      if (!value_ && rest[0] != '"') return fail();
      if (!value_) value_.emplace(ValueDialect::kJson);
      const std::size_t taken = value_->read(rest, last, member_);
      if (value_->has_failed() || member_.size() > kMostName) return fail();
      if (value_->is_done()) {
        value_.reset();
        stage_ = Stage::kColon;
        if (format_.name_key.empty() && !take_name(unquoted(member_))) return fail();
      }
      return taken;
    }
    case Stage::kColon:
      if (rest[0] != ':') return fail();
      stage_ = Stage::kValue;
      return 1;
    case Stage::kValue: return read_member_value(rest, last);
    default:  // kNext
      if (rest[0] == '}') return end_object() ? 1 : fail();
      if (rest[0] != ',' || format_.name_key.empty()) return fail();
      stage_ = Stage::kMember;
      return 1;
  }
}

std::size_t CallReader::read_member_value(std::string_view rest, bool last) {
  if (!value_) {
    is_streaming_ = is_arguments_key() && rest[0] == '{';
    if (is_arguments_key() && std::exchange(has_arguments_, true)) return fail();
    if (is_streaming_) begun_ = true;
    value_.emplace(ValueDialect::kJson);
  }
  const std::size_t taken = value_->read(rest, last, is_streaming_ ? arguments_ : content_);
  const bool is_unknown = !has_name_ && arguments_.size() > kMostKept;
  if (value_->has_failed() || is_unknown || content_.size() > kMostKept) {
    stage_ = Stage::kFailed;  // behind what was told of it, as where it came in pieces
    return taken;
  }
  if (!value_->is_done()) return taken;
  value_.reset();
  if (!end_member()) return fail();
  member_.clear();
  content_.clear();
  stage_ = Stage::kNext;
  return taken;
}

bool CallReader::end_member() {
  if (is_name_key()) return !has_name_ && take_name(unquoted(content_));
  if (!is_arguments_key()) {
    // One that comes later comes too late: the call has been told of.
    if (!begun_ && !format_.id_key.empty() && unquoted(member_) == format_.id_key) id_ = unquoted(content_);
    return true;
  }
  if (is_streaming_) return true;
  if (content_ == "null") return true;
  // Some models write them as a text that holds the object.
  const std::string text = unquoted(content_);
  ValueReader whole(ValueDialect::kJson);
  const std::size_t begin = skip_space(text, 0);
  if (begin == text.size() || text[begin] != '{') return false;
  const std::size_t read = whole.read(std::string_view(text).substr(begin), true, arguments_);
  begun_ = true;
  return whole.is_done() && skip_space(text, begin + read) == text.size();
}

bool CallReader::end_object() {
  if (!has_name_) return false;
  if (!begun_) arguments_ = "{}";
  stage_ = Stage::kDone;
  return true;
}

// ---- a name, and arguments as one value

std::size_t CallReader::ends_name(std::string_view rest, bool& needs_more) const {
  if (!format_.name_close.empty()) {
    const DelimiterMatch match = match_delimiter(rest, format_.name_close);
    needs_more = match.is_partial;
    return match.size;
  }
  if (format_.kind == CallKind::kNamed) return 0;
  const DelimiterMatch key = match_delimiter(rest, format_.key_open);
  const DelimiterMatch close = match_delimiter(rest, format_.call_close);
  needs_more = key.is_partial || close.is_partial;
  return 0;
}

std::size_t CallReader::read_name(std::string_view rest, bool last) {
  for (std::size_t at = 0; at < rest.size(); ++at) {
    bool needs_more = false;
    const std::string_view behind = rest.substr(at);
    const std::size_t size = ends_name(behind, needs_more);
    if (needs_more && !last) return 0;
    const bool is_bare = format_.name_close.empty();
    const bool begins =
        is_bare && (format_.kind == CallKind::kNamed ? behind[0] == '{'
                                                     : match_delimiter(behind, format_.key_open).is_whole ||
                                                           match_delimiter(behind, format_.call_close).is_whole);
    if (size > 0 || begins) {
      if (!take_head(rest.substr(0, at))) return fail();
      stage_ = format_.kind == CallKind::kNamed ? Stage::kArguments : Stage::kParameter;
      if (format_.dialect == ValueDialect::kPython) {
        value_ = ValueReader::keyword_arguments();
        begun_ = true;
      }
      // Nothing may be read here where nothing closes the name: what follows is looked at again.
      return at + size > 0 ? at + size : fail();
    }
    if (at == kMostName || behind[0] == '{' || behind[0] == '}') return fail();
  }
  return last || !may_be_head(rest) ? fail() : 0;
}

bool CallReader::may_be_head(std::string_view begun) const {
  const bool is_plain = format_.name_prefix.empty() && format_.id_open.empty() && !format_.is_indexed;
  return !is_plain || functions_.has_like(begun.substr(skip_space(begun, 0)));
}

// The name with what a format puts around it.
bool CallReader::take_head(std::string_view head) {
  head = trim_space(head);
  if (!format_.id_open.empty()) {
    const std::size_t id = head.find(format_.id_open);
    if (id != head.npos) {
      id_ = trim_space(head.substr(id + format_.id_open.size()));
      head = trim_space(head.substr(0, id));
    }
  }
  if (format_.is_indexed) {
    id_ = head;
    const std::size_t colon = head.rfind(':');
    if (colon != head.npos && head.find_first_not_of("0123456789", colon + 1) == head.npos)
      head = head.substr(0, colon);
  }
  if (!format_.name_prefix.empty() && head.starts_with(format_.name_prefix) && !functions_.has(head))
    head.remove_prefix(format_.name_prefix.size());
  return take_name(head);
}

std::size_t CallReader::read_arguments(std::string_view rest, bool last) {
  if (!value_) {
    if (is_space_byte(rest[0])) return 1;
    if (rest[0] != '{') return fail();
    value_.emplace(format_.dialect);
    begun_ = true;
  }
  const std::size_t taken = value_->read(rest, last, arguments_);
  if (value_->has_failed()) stage_ = Stage::kFailed;
  if (value_->is_done()) stage_ = Stage::kDone;
  return taken;
}

// ---- parameters between tags

std::size_t CallReader::read_parameter(std::string_view rest, bool last) {
  if (is_space_byte(rest[0])) return 1;
  const DelimiterMatch open = match_delimiter(rest, format_.key_open);
  if (open.is_partial && !last) return 0;
  if (!open.is_whole) {  // what closes the call is not known here
    if (is_first_) arguments_ += '{';
    arguments_ += '}';
    stage_ = Stage::kDone;
    return 0;
  }
  begun_ = true;
  stage_ = Stage::kKey;
  return open.size;
}

std::size_t CallReader::read_key(std::string_view rest, bool last) {
  for (std::size_t at = 0; at < rest.size() && at <= kMostName; ++at) {
    const std::string_view behind = rest.substr(at);
    const DelimiterMatch close = match_delimiter(behind, format_.key_close);
    const DelimiterMatch json =
        format_.json_key_close.empty() ? DelimiterMatch() : match_delimiter(behind, format_.json_key_close);
    if ((close.is_partial || json.is_partial) && !last) return 0;
    if (!close.is_whole && !json.is_whole) continue;
    const std::string key(trim_space(rest.substr(0, at)));
    types_ = functions_.types_of(name_, key);
    if (!format_.json_key_close.empty())
      types_ = close.is_whole ? std::set<std::string>{"string"} : std::set<std::string>();
    is_text_ = types_.size() == 1 && types_.contains("string");
    arguments_ += is_first_ ? "{\"" : ", \"";
    append_json_text(key, arguments_);
    arguments_ += is_text_ ? "\": \"" : "\": ";
    is_first_ = false;
    is_streaming_ = false;
    stage_ = Stage::kText;
    return at + (close.is_whole ? close.size : json.size);
  }
  return last || rest.size() > kMostName ? fail() : 0;
}

std::size_t CallReader::read_text(std::string_view rest, bool last) {
  if (is_lines_ && !is_streaming_ && rest[0] == '\n') {  // the line end that belongs to the tag
    is_streaming_ = true;
    return 1;
  }
  is_streaming_ = true;
  const std::string_view tag = trim_space(format_.value_close);
  const std::size_t end = rest.find(tag);
  if (end != rest.npos) {
    std::string_view value = rest.substr(0, end);
    if (is_lines_ && value.ends_with('\n')) value.remove_suffix(1);
    end_text(value);
    return end + tag.size();
  }
  if (last) return fail();
  if (!is_text_) return 0;
  std::size_t ready = rest.size() - partial_end(rest, tag);
  if (is_lines_ && ready > 0 && rest[ready - 1] == '\n') --ready;
  append_json_text(rest.substr(0, ready), arguments_);
  return ready;
}

void CallReader::end_text(std::string_view value) {
  stage_ = Stage::kParameter;
  if (is_text_) {
    append_json_text(value, arguments_);
    arguments_ += '"';
    return;
  }
  if (const auto typed = typed_value(value, types_)) {
    arguments_ += *typed;
    return;
  }
  arguments_ += '"';
  append_json_text(value, arguments_);
  arguments_ += '"';
}

}  // namespace metal_marlin
