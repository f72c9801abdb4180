#include "server/fields.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "server/api_error.h"

namespace metal_marlin::server {
namespace {

std::string range(const char* kind, const auto& low, const auto& high) {
  return low == high ? fmt::format("{}", low) : fmt::format("{} from {} to {}", kind, low, high);
}

// JSON does not tell 1.0 from 1.
std::optional<std::int64_t> as_integer(const OrderedJson& value) {
  if (value.is_number_float()) {
    constexpr double most = 1LL << 53;  // up to which a double tells neighbours apart
    const auto number = value.get<double>();
    if (!(std::abs(number) <= most) || number != std::trunc(number)) return std::nullopt;
    return static_cast<std::int64_t>(number);
  }
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX) return std::nullopt;
  return value.get<std::int64_t>();
}

}  // namespace

std::string shown_json(const OrderedJson& value) {
  if (value.is_object()) return value.empty() ? "an empty object" : "an object";
  if (value.is_array()) return value.empty() ? "an empty list" : fmt::format("a list of {}", value.size());
  if (value.is_string() && value.get_ref<const std::string&>().size() > 60)
    return fmt::format("a text of {} bytes", value.get_ref<const std::string&>().size());
  return json_text(value);
}

Fields::Fields(const OrderedJson& object, std::string name) : object_(&object), name_(std::move(name)) {
  if (!object.is_object())
    throw ApiError(400, fmt::format("{} is {}, expected an object", name_, shown_json(object)), name_);
}

std::string Fields::name_of(std::string_view key) const {
  return name_.empty() ? std::string(key) : fmt::format("{}.{}", name_, key);
}

void Fields::wrong(const char* key, std::string_view expected) const {
  const auto found = object_->find(key);
  const std::string value = found == object_->end() || found->is_null() ? "missing" : shown_json(*found);
  throw ApiError(400, fmt::format("{} is {}, expected {}", name_of(key), value, expected), name_of(key));
}

const OrderedJson* Fields::find(const char* key) {
  read_.insert(key);
  const auto found = object_->find(key);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

std::optional<double> Fields::number(const char* key, double low, double high) {
  const OrderedJson* const value = find(key);
  if (value == nullptr) return std::nullopt;
  const double number = value->is_number() ? value->get<double>() : high + 1;
  if (!(number >= low && number <= high)) wrong(key, range("a number", low, high));
  return number;
}

std::optional<std::int64_t> Fields::integer(const char* key, std::int64_t low, std::int64_t high) {
  const OrderedJson* const value = find(key);
  if (value == nullptr) return std::nullopt;
  const auto number = as_integer(*value);
  if (!number || *number < low || *number > high) wrong(key, range("an integer", low, high));
  return number;
}

bool Fields::boolean(const char* key, bool fallback) {
  const OrderedJson* const value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) wrong(key, "true or false");
  return value->get<bool>();
}

std::optional<std::string> Fields::text(const char* key) {
  const OrderedJson* const value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) wrong(key, "a text");
  return value->get<std::string>();
}

std::vector<std::string> Fields::texts(const char* key) {
  const OrderedJson* const value = find(key);
  if (value == nullptr) return {};
  if (value->is_string()) return {value->get<std::string>()};
  if (!value->is_array()) wrong(key, "a text or a list of texts");
  for (std::size_t i = 0; i < value->size(); ++i) {
    const OrderedJson& item = (*value)[i];
    if (item.is_string()) continue;
    throw ApiError(400, fmt::format("{}[{}] is {}, expected a text", name_of(key), i, shown_json(item)), name_of(key));
  }
  return value->get<std::vector<std::string>>();
}

std::vector<TokenId> Fields::token_ids(const char* key, std::int64_t vocabulary) {
  const OrderedJson* const value = find(key);
  return value == nullptr ? std::vector<TokenId>() : token_list(*value, vocabulary, name_of(key));
}

std::string Fields::choice(const char* key, std::span<const std::string_view> values) {
  const OrderedJson* const value = find(key);
  if (value == nullptr || !value->is_string() ||
      std::find(values.begin(), values.end(), value->get_ref<const std::string&>()) == values.end()) {
    wrong(key, fmt::format("one of {}", fmt::join(values, ", ")));
  }
  return value->get<std::string>();
}

std::optional<Fields> Fields::object(const char* key) {
  const OrderedJson* const value = find(key);
  if (value == nullptr) return std::nullopt;
  return Fields(*value, name_of(key));
}

void Fields::refuse_others(std::span<const std::string_view> harmless) const {
  for (const auto& [key, value] : object_->items()) {
    if (value.is_null() || read_.contains(key) || std::find(harmless.begin(), harmless.end(), key) != harmless.end()) {
      continue;
    }
    throw ApiError(400, fmt::format("{} is not a field that this server knows", name_of(key)), name_of(key),
                   "unsupported_parameter");
  }
}

std::vector<TokenId> token_list(const OrderedJson& list, std::int64_t vocabulary, const std::string& name) {
  const auto expected = [&](const std::string& where, const OrderedJson& found) {
    return ApiError(
        400, fmt::format("{} is {}, expected a token id from 0 to {}", where, shown_json(found), vocabulary - 1), name);
  };
  if (!list.is_array())
    throw ApiError(400, fmt::format("{} is {}, expected a list of token ids", name, shown_json(list)), name);
  std::vector<TokenId> ids;
  ids.reserve(list.size());
  for (std::size_t i = 0; i < list.size(); ++i) {
    const auto id = as_integer(list[i]);
    if (!id || *id < 0 || *id >= vocabulary) throw expected(fmt::format("{}[{}]", name, i), list[i]);
    ids.push_back(static_cast<TokenId>(*id));
  }
  return ids;
}

}  // namespace metal_marlin::server
