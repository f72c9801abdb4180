#include "io/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/printable.h"
#include "io/file_kind.h"
#include "io/json_fields.h"
#include "io/mapped_file.h"
#include "metal_marlin/error.h"

namespace metal_marlin {

bool is_nested_deeper(std::string_view text, int most) {
  int depth = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') {
      for (++i; i < text.size() && text[i] != '"'; ++i) i += text[i] == '\\' ? 1 : 0;
    } else if (c == '[' || c == '{') {
      if (++depth > most) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

std::size_t most_json_fields(std::string_view text) {
  std::vector<std::size_t> open;  // fields of each object that has not ended; arrays have none
  std::size_t most = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') {
      for (++i; i < text.size() && text[i] != '"'; ++i) i += text[i] == '\\' ? 1 : 0;
    } else if (c == '[' || c == '{') {
      open.push_back(0);
    } else if (c == ':' && !open.empty()) {
      most = std::max(most, ++open.back());
    } else if ((c == ']' || c == '}') && !open.empty()) {
      open.pop_back();
    }
  }
  return most;
}

std::string invalid_json_text(std::string_view text, const std::exception& error) {
  const auto* const where = dynamic_cast<const Json::parse_error*>(&error);
  if (where == nullptr) return "it has a number that is too large";  // nothing else is wrong with what can be parsed
  const std::size_t at = std::min(std::max<std::size_t>(where->byte, 1) - 1, text.size());
  const std::string_view before = text.substr(0, at);
  const std::size_t line = before.rfind('\n') + 1;  // npos + 1: the first
  const std::string found = at == text.size() ? "end" : fmt::format("'{}'", printable_line(text.substr(at, 1)));
  return fmt::format("line {}, column {}: unexpected {}", std::count(before.begin(), before.end(), '\n') + 1,
                     at - line + 1, found);
}

Json parse_json(std::string_view text, const std::string& where) {
  if (is_nested_deeper(text, kMostJsonDepth))
    throw Error(ErrorCode::kCorruptFile,
                fmt::format("{}: JSON that is nested more than {} deep", where, kMostJsonDepth));
  try {
    return Json::parse(text.begin(), text.end());
  } catch (const Json::exception& error) {
    refuse_foreign(std::as_bytes(std::span(text)), where, true);
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: not valid JSON: {}", where, invalid_json_text(text, error)));
  }
}

Json read_json_file(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_json({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, path.string());
}

JsonObject::JsonObject(const Json& value, std::string where) : value_(&value), where_(std::move(where)) {
  if (!value.is_object()) {
    throw Error(ErrorCode::kCorruptFile, fmt::format("{}: found {}, expected an object", where_, value.type_name()));
  }
}

void JsonObject::wrong(const char* key, std::string_view expected) const {
  const auto found = value_->find(key);
  std::string text = "nothing";
  if (found != value_->end()) {
    text = found->dump(-1, ' ', false, Json::error_handler_t::replace);
    if (text.size() > 60) text = text.substr(0, 57) + "...";
  }
  throw Error(found == value_->end() ? ErrorCode::kNotFound : ErrorCode::kCorruptFile,
              fmt::format("{}: field {} is {}, expected {}", where_, key, text, expected));
}

void JsonObject::only(std::span<const std::string_view> known) const {
  for (const auto& [key, value] : value_->items()) only_key(key, known);
}

void JsonObject::only_key(const std::string& key, std::span<const std::string_view> known) const {
  if (!has(key.c_str()) || std::find(known.begin(), known.end(), key) != known.end()) return;
  throw Error(ErrorCode::kUnsupported,
              fmt::format("{}: field {} is not one that we know, so that the model might not be what it asks for",
                          where_, key));
}

bool JsonObject::has(const char* key) const {
  const auto found = value_->find(key);
  return found != value_->end() && !found->is_null();
}

const Json& JsonObject::at(const char* key) const {
  if (!has(key)) wrong(key, "a value");
  return *value_->find(key);
}

const char* JsonObject::either(const char* key, const char* other) const {
  if (has(key) && has(other) && at(key) != at(other))
    wrong(other, fmt::format("{}, as {} has it", at(key).dump(), key));
  return has(other) && !has(key) ? other : key;
}

JsonObject JsonObject::object(const char* key) const {
  if (!has(key) || !value_->find(key)->is_object()) wrong(key, "an object");
  return {*value_->find(key), where_ + ": " + key};
}

std::int64_t JsonObject::integer(const char* key) const {
  if (!has(key)) wrong(key, "an integer");
  const Json& value = *value_->find(key);
  if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX)) {
    wrong(key, "an integer");
  }
  return value.get<std::int64_t>();
}

std::int64_t JsonObject::integer_or(const char* key, std::int64_t fallback) const {
  return has(key) ? integer(key) : fallback;
}

std::int64_t JsonObject::bounded(const char* key, std::int64_t low, std::int64_t high) const {
  const std::int64_t value = integer(key);
  if (value < low || value > high) wrong(key, fmt::format("an integer from {} to {}", low, high));
  return value;
}

double JsonObject::number(const char* key) const {
  if (!has(key) || !value_->find(key)->is_number()) wrong(key, "a number");
  return value_->find(key)->get<double>();
}

double JsonObject::number_or(const char* key, double fallback) const {
  return has(key) ? number(key) : fallback;
}

bool JsonObject::boolean(const char* key) const {
  if (!has(key) || !value_->find(key)->is_boolean()) wrong(key, "true or false");
  return value_->find(key)->get<bool>();
}

bool JsonObject::boolean_or(const char* key, bool fallback) const {
  return has(key) ? boolean(key) : fallback;
}

std::string JsonObject::string(const char* key) const {
  if (!has(key) || !value_->find(key)->is_string()) wrong(key, "a string");
  return value_->find(key)->get<std::string>();
}

std::string JsonObject::string_or(const char* key, const std::string& fallback) const {
  return has(key) ? string(key) : fallback;
}

}  // namespace metal_marlin
