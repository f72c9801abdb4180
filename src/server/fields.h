// The fields of a request, read by name: what is wrong with one is an ApiError that names it, what is not read at all
// is refused unless it is known to change nothing.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "metal_marlin/tokenizer.h"
#include "server/json_text.h"

namespace metal_marlin::server {

class Fields {
 public:
  // `name` of the object in errors; empty: it is the body.
  explicit Fields(const OrderedJson& object, std::string name = {});

  // The value, or nullptr where there is none or it is null.
  const OrderedJson* find(const char* key);
  std::optional<double> number(const char* key, double low, double high);
  std::optional<std::int64_t> integer(const char* key, std::int64_t low, std::int64_t high);
  bool boolean(const char* key, bool fallback);
  std::optional<std::string> text(const char* key);
  std::vector<std::string> texts(const char* key);  // a text, or a list of them
  std::vector<TokenId> token_ids(const char* key, std::int64_t vocabulary);
  std::string choice(const char* key, std::span<const std::string_view> values);  // one of them, which must be there
  std::optional<Fields> object(const char* key);

  [[nodiscard]] bool was_read(std::string_view key) const { return read_.contains(key); }
  [[nodiscard]] std::string name_of(std::string_view key) const;
  [[noreturn]] void wrong(const char* key, std::string_view expected) const;
  // \throws ApiError for the first field that nobody asked for and that is not among `harmless`.
  void refuse_others(std::span<const std::string_view> harmless) const;

 private:
  const OrderedJson* object_;
  std::string name_;
  std::set<std::string, std::less<>> read_;
};

// A value in errors. What is long is not repeated, and not all of it written out to be cut.
std::string shown_json(const OrderedJson& value);

// A list of token ids. \throws ApiError naming `name`.
std::vector<TokenId> token_list(const OrderedJson& list, std::int64_t vocabulary, const std::string& name);

}  // namespace metal_marlin::server
